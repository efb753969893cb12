"""Facts of export/calibration.py: which images and texts int8 is calibrated on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.shards import Sample, write_shards
from kdx.export.calibration import check_disjoint, check_enough, read_calibration_samples
from kdx.export.samples import ParitySamples, read_parity_samples

MakeSamples = Callable[..., list[Sample]]


def test_training_images_are_read_without_those_of_the_gate(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = make_samples(60)
    write_shards(tmp_path, "train", samples[:50])
    write_shards(tmp_path, "val", samples[45:])
    held_out = read_parity_samples(tmp_path)
    calibration = read_calibration_samples(tmp_path, held_out)
    assert list(calibration.images) == [sample.image for sample in samples[:45]]
    assert list(calibration.texts) == [f"caption number {row}" for row in range(45)]
    check_disjoint(calibration, held_out)
    with pytest.raises(DataError):
        check_disjoint(replace(calibration, images=[*calibration.images, samples[50].image]), held_out)


def test_a_set_without_enough_to_calibrate_on_is_refused(tmp_path: Path, make_samples: MakeSamples) -> None:
    samples = make_samples(60)
    held_out = ParitySamples([samples[0].image], ["text"])
    with pytest.raises(DataError) as missing:
        read_calibration_samples(tmp_path, held_out)
    write_shards(tmp_path, "train", samples[:20])
    with pytest.raises(DataError) as few:
        read_calibration_samples(tmp_path, held_out)
    assert missing.value.where == few.value.where == str(tmp_path)


def test_equal_images_or_texts_count_once(make_samples: MakeSamples) -> None:
    images = [sample.image for sample in make_samples(40)]
    texts = [f"text {row}" for row in range(40)]
    check_enough(ParitySamples(images, texts))
    for images_given, texts_given in ((images[:1] * 40, texts), (images, texts[:3] * 20)):
        with pytest.raises(DataError):
            check_enough(ParitySamples(images_given, texts_given))
