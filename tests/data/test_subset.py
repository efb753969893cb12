"""Facts of kdx/data/subset.py: subsets of one seed are nested, and wrong captions are another sample's."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kdx.core.errors import DataError, UsageError
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.subset import write_subset

MakeSamples = Callable[..., list[Sample]]
NUM_SAMPLES = 24
shares = st.floats(0, 0.99)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_samples: MakeSamples) -> ShardSet:
    """Captions repeat: some samples have one caption, some two, and each is shared by three samples."""
    folder = tmp_path_factory.mktemp("source")
    captions = [(f"caption {n % 8}", f"also {n % 8}")[: 1 + n % 2] for n in range(NUM_SAMPLES)]
    write_shards(folder, "train", make_samples(NUM_SAMPLES, captions), samples_per_shard=10)
    return open_split(folder, "train")


def _subset(source: ShardSet, pairs: int, share: float, seed: int) -> tuple[list[Sample], int]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "subset"
        wrong = write_subset(source, out, pairs=pairs, wrong_captions=share, seed=seed)
        return list(open_split(out, "train")), wrong


def _exchanged(source: ShardSet, subset: list[Sample]) -> dict[str, tuple[str, ...]]:
    """The wrong captions by key."""
    right = {sample.key: sample.captions for sample in source}
    return {sample.key: sample.captions for sample in subset if sample.captions != right[sample.key]}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, NUM_SAMPLES), min_size=2, max_size=2), shares, st.integers(0, 2**63 - 1))
def test_fewer_pairs_are_the_beginning_of_more(
    source: ShardSet, pairs: list[int], share: float, seed: int
) -> None:
    fewer, more = (_subset(source, count, share, seed)[0] for count in sorted(pairs))
    assert len(fewer) == min(pairs) and len(more) == max(pairs)
    assert more[: len(fewer)] == fewer


@settings(max_examples=25, deadline=None)
@given(st.lists(shares, min_size=2, max_size=2), st.integers(0, 2**63 - 1))
def test_a_smaller_share_exchanges_a_part_of_what_a_larger_one_does(
    source: ShardSet, two: list[float], seed: int
) -> None:
    smaller, larger = (
        _exchanged(source, _subset(source, NUM_SAMPLES, share, seed)[0]) for share in sorted(two)
    )
    assert smaller.items() <= larger.items()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, NUM_SAMPLES), shares, st.integers(0, 100))
def test_wrong_captions_are_another_samples_and_counted(
    source: ShardSet, pairs: int, share: float, seed: int
) -> None:
    subset, wrong = _subset(source, pairs, share, seed)
    originals = {sample.key: sample for sample in source}
    exchanged = _exchanged(source, subset)
    assert len(exchanged) == wrong
    for sample in subset:
        original = originals[sample.key]
        assert (sample.image, sample.label) == (original.image, original.label)
        assert sample.captions in {other.captions for other in source}
        if sample.key in exchanged:
            assert not set(sample.captions) & set(original.captions)


def test_the_share_is_met_on_the_whole(source: ShardSet) -> None:
    wrong = sum(_subset(source, NUM_SAMPLES, 0.5, seed)[1] for seed in range(40))
    assert abs(wrong - 480) < 6 * 240**0.5  # binomial, 960 at one half: six standard deviations
    assert _subset(source, NUM_SAMPLES, 0.0, 0)[1] == 0


def test_the_seed_decides_which_samples_are_taken(source: ShardSet) -> None:
    keys = [[sample.key for sample in _subset(source, 12, 0.0, seed)[0]] for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
    assert len(set(keys[0])) == 12


def test_classes_and_templates_come_along(tmp_path: Path, make_samples: MakeSamples) -> None:
    write_shards(tmp_path / "source", "train", make_samples(6))
    (tmp_path / "source" / "classes.txt").write_text("cat\ndog\nfish\n")
    (tmp_path / "source" / "templates.txt").write_text("a {}\nthe {}\n")
    source = open_split(tmp_path / "source", "train")
    write_subset(source, tmp_path / "subset", pairs=2, wrong_captions=0, seed=0)
    for name in ("classes.txt", "templates.txt"):
        assert (tmp_path / "subset" / name).read_text() == (tmp_path / "source" / name).read_text()
    assert open_split(tmp_path / "subset", "train").classes == ["cat", "dog", "fish"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"pairs": 0}, "0"),
        ({"pairs": 25}, "25"),
        ({"wrong_captions": 1.0}, "wrong_captions = 1.0"),
        ({"wrong_captions": -0.1}, "wrong_captions = -0.1"),
        ({"wrong_captions": float("nan")}, "wrong_captions = nan"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    source: ShardSet, tmp_path: Path, wrong: dict[str, float], what: str
) -> None:
    arguments: dict[str, Any] = {"pairs": 3, "wrong_captions": 0.5, "seed": 0} | wrong
    with pytest.raises(UsageError) as error:
        write_subset(source, tmp_path / "out", **arguments)
    assert what in error.value.what
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_one_caption_has_no_wrong_ones(tmp_path: Path, make_samples: MakeSamples) -> None:
    write_shards(tmp_path / "source", "train", make_samples(8, [("the same",)] * 8))
    source = open_split(tmp_path / "source", "train")
    with pytest.raises(DataError) as caught:
        write_subset(source, tmp_path / "subset", pairs=8, wrong_captions=0.9, seed=0)
    assert "--wrong-captions 0" in str(caught.value.remedy)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_an_old_set_is_replaced_only_when_asked(source: ShardSet, tmp_path: Path) -> None:
    write_subset(source, tmp_path / "out", pairs=9, wrong_captions=0, seed=0)
    with pytest.raises(UsageError):
        write_subset(source, tmp_path / "out", pairs=2, wrong_captions=0, seed=0)
    write_subset(source, tmp_path / "out", pairs=2, wrong_captions=0, seed=0, overwrite=True)
    assert len(open_split(tmp_path / "out", "train")) == 2
