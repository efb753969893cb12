"""Facts of the shard reader on sets of real photos, where a machine has them."""

import gzip
import shutil
from pathlib import Path

import pytest

from kdx.core.preprocess import decode_image
from kdx.data.shards import ShardSet, open_split


def _open(archives: Path, folder: Path) -> ShardSet:
    """Unpacks the test shards and classes.txt of a set, as its unpack.sh does."""
    packed = sorted(archives.glob("test-*.tar.gz"))
    if not packed:
        pytest.skip(f"{archives.name} is not on this machine")
    for archive in packed:
        with gzip.open(archive) as source, (folder / archive.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    if (archives / "classes.txt").exists():
        shutil.copy(archives / "classes.txt", folder)
    return open_split(folder, "val")


def test_cifar10_has_ten_thousand_labelled_photos(real_photos: Path, tmp_path: Path) -> None:
    samples = _open(real_photos / "cifar10", tmp_path)
    assert len(samples) == 10_000 and samples.skipped == []
    assert samples.classes is not None and len(samples.classes) == 10
    assert [sum(samples.label(row) == label for row in range(10_000)) for label in range(10)] == [1000] * 10
    for row in range(0, 10_000, 500):
        sample = samples[row]
        assert decode_image(sample.image).size == (32, 32)
        assert sample.label is not None and samples.classes[sample.label] in sample.captions[0]


def test_flickr8k_has_a_thousand_photos_with_five_captions(real_photos: Path, tmp_path: Path) -> None:
    samples = _open(real_photos / "flickr8k", tmp_path)
    assert len(samples) == 1000 and samples.skipped == [] and samples.classes is None
    assert {len(samples.captions(row)) for row in range(1000)} == {5}
    assert {samples.label(row) for row in range(1000)} == {None}
    assert decode_image(samples[999].image).size == (128, 128)
