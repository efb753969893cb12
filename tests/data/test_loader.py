"""Facts of kdx/data/loader.py: order and views do not depend on where a run starts; bad images are skipped."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdx.core.errors import DataError, UsageError
from kdx.core.preprocess import Preprocess
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Loader, ViewReader
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import ViewConfig, philox

MakeSamples = Callable[..., list[Sample]]
PREPROCESS = Preprocess(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _open(folder: Path, samples: list[Sample]) -> ShardSet:
    write_shards(folder, "train", samples, samples_per_shard=7)
    return open_split(folder, "train")


def _loader(
    samples: ShardSet,
    *,
    batch_size: int = 4,
    seed: int = 0,
    max_bad_share: float = 0.5,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    reader = ViewReader(samples, PREPROCESS, ViewConfig(num_views=2), max_bad_share=max_bad_share)
    return Loader(
        reader,
        captions=CaptionTokens(samples, 16),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        num_ranks=num_ranks,
    )


def test_an_epoch_sees_every_sample_once(tmp_path: Path, make_samples: MakeSamples) -> None:
    loader = _loader(_open(tmp_path, make_samples(12)))
    assert loader.steps_per_epoch == 3
    rows = np.concatenate([batch.rows for batch in loader.batches(0, 3)])
    assert sorted(rows) == list(range(12))


def test_a_later_start_sees_what_an_uninterrupted_run_would(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = _open(tmp_path, make_samples(13))
    whole = list(_loader(samples).batches(0, 8))
    rest = list(_loader(samples).batches(5, 8))
    for expected, batch in zip(whole[5:], rest, strict=True):
        assert batch.step == expected.step
        assert np.array_equal(batch.rows, expected.rows)
        assert np.array_equal(batch.pixels, expected.pixels)
        assert np.array_equal(batch.tokens, expected.tokens)


def test_order_depends_on_seed_and_epoch_and_views_alternate(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = _open(tmp_path, make_samples(12))
    batches = list(_loader(samples).batches(0, 6))
    first, second = (np.concatenate([b.rows for b in part]) for part in (batches[:3], batches[3:]))
    assert not np.array_equal(first, second)
    assert [set(batch.views.tolist()) for batch in batches] == [{0}] * 3 + [{1}] * 3
    other = np.concatenate([batch.rows for batch in _loader(samples, seed=1).batches(0, 3)])
    assert not np.array_equal(first, other)


def test_tokens_are_cut_to_the_longest_caption_of_the_batch(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = _open(tmp_path, make_samples(4, captions=[("a",), ("a b",), ("a b c",), ("a b c d",)]))
    (batch,) = _loader(samples).batches(0, 1)
    assert batch.tokens.shape == (4, 6)  # start, four words, end


def test_a_sample_with_several_captions_shows_them_all_in_time(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = _open(tmp_path, make_samples(4, captions=[("one", "two", "three")] * 4))
    seen = {caption for batch in _loader(samples).batches(0, 20) for caption in batch.captions.tolist()}
    assert seen == {0, 1, 2}


def test_a_corrupt_image_is_named_skipped_and_replaced(tmp_path: Path, make_samples: MakeSamples) -> None:
    good = make_samples(12)
    broken = Sample(key="broken", image=good[0].image[:60], captions=("x",), label=None)
    loader = _loader(_open(tmp_path, [*good[:5], broken, *good[5:]]))
    batches = list(loader.batches(0, 6))
    assert all(len(batch.rows) == 4 and 5 not in batch.rows for batch in batches)
    assert list(loader._reader.bad) == [5]


def test_too_many_corrupt_images_stop_the_run(tmp_path: Path, make_samples: MakeSamples) -> None:
    good = make_samples(8)
    broken = [Sample(key=f"b{i}", image=good[0].image[:60], captions=("x",), label=None) for i in range(3)]
    loader = _loader(_open(tmp_path, [*good, *broken]), max_bad_share=0.1)
    with pytest.raises(DataError) as error:
        list(loader.batches(0, 4))
    assert "2 of 11" in error.value.what and error.value.where == str(tmp_path)


def test_a_batch_larger_than_the_set_is_refused(tmp_path: Path, make_samples: MakeSamples) -> None:
    with pytest.raises(UsageError) as error:
        _loader(_open(tmp_path, make_samples(3)))
    assert "4" in error.value.what and "3" in error.value.what and error.value.where == str(tmp_path)


def test_ranks_share_the_batch_of_one_process(tmp_path: Path, make_samples: MakeSamples) -> None:
    samples = _open(tmp_path, make_samples(13))
    for whole, *parts in zip(
        _loader(samples, batch_size=6).batches(0, 4),
        *(_loader(samples, batch_size=6, rank=rank, num_ranks=3).batches(0, 4) for rank in range(3)),
        strict=True,
    ):
        for rank, part in enumerate(parts):
            assert np.array_equal(part.rows, whole.rows[rank::3])
            assert np.array_equal(part.pixels, whole.pixels[rank::3])


def test_ranks_have_equal_parts_or_stop(tmp_path: Path, make_samples: MakeSamples) -> None:
    """Of 9 rows in a random order rank 0 has the 5 at even places, rank 1 the 4 at odd ones; row 0 does not decode."""
    samples = make_samples(9)
    broken = Sample(**{**samples[0].__dict__, "image": b"\xff\xd8\xff no image"})
    shards = _open(tmp_path, [broken, *samples[1:]])
    for rank in range(2):  # with a batch of 4 there are others to stand in
        loader = _loader(shards, batch_size=4, rank=rank, num_ranks=2)
        assert [len(batch.rows) for batch in loader.batches(0, 8)] == [2] * 8
    whole = _loader(shards, batch_size=8, rank=0, num_ranks=2)
    assert [len(batch.rows) for batch in whole.batches(0, 8)] == [4] * 8
    places = [philox(0, epoch).permutation(9).tolist().index(0) for epoch in range(8)]
    stop = next(epoch for epoch, place in enumerate(places) if place % 2 == 1)
    short = _loader(shards, batch_size=8, rank=1, num_ranks=2)
    assert [len(batch.rows) for batch in short.batches(0, stop)] == [4] * stop
    with pytest.raises(DataError) as error:
        list(short.batches(stop, stop + 1))
    assert error.value.where == str(tmp_path)
