"""Facts of kdx/data/sampling.py: which samples stand for a set."""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from kdx.core.errors import DataError
from kdx.data.sampling import readable_samples, spread
from kdx.data.shards import Sample, open_split, write_shards


def test_rows_are_evenly_spaced_from_the_first() -> None:
    assert spread(12, 4) == [0, 3, 6, 9]
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 100) == [0, 1, 2]
    assert spread(0, 5) == spread(5, 0) == []


@given(st.integers(0, 10_000), st.integers(0, 300))
def test_gaps_differ_by_one_at_most(total: int, count: int) -> None:
    rows = [*spread(total, count), total]
    gaps = {later - row for row, later in itertools.pairwise(rows)}
    assert len(rows) == 1 + min(total, count) and len(gaps) <= 2 and (not gaps or max(gaps) - min(gaps) <= 1)


def test_images_that_do_not_decode_are_left_out_and_named(
    tmp_path: Path, make_photo: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    images = [make_photo(n)[: 60 if n == 4 else None] for n in range(8)]
    write_shards(tmp_path, "val", [Sample(f"{n}", image, ("x",), None) for n, image in enumerate(images)])
    with caplog.at_level(logging.WARNING, logger="kdx"):
        readable = readable_samples(open_split(tmp_path, "val"), 4)
    assert [sample.key for sample in readable] == ["0", "2", "6"]
    assert "sample 4" in caplog.text


def test_a_set_without_an_image_that_decodes_is_bad_data(
    tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    write_shards(tmp_path, "val", [Sample(f"{n}", make_photo(n)[:60], ("x",), None) for n in range(3)])
    with pytest.raises(DataError) as caught:
        readable_samples(open_split(tmp_path, "val"), 10)
    assert caught.value.where == str(tmp_path)
