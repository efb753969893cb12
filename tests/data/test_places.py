"""Facts of kdx/data/places.py: which shards a place means, and which samples of them are a split's."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.places import expand_braces, shard_paths, splits_there
from kdx.data.sample import key_digest
from kdx.data.shards import Sample, open_split, read_classes, read_templates, write_shards

MakeSamples = Callable[..., list[Sample]]


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def _names(folder: Path, place: Path, split: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in shard_paths(place, split)]


def _shards(folder: Path, samples: list[Sample], size: int = 4) -> Path:
    """As img2dataset names them."""
    write_shards(folder, "train", samples, samples_per_shard=size)
    for path in folder.glob("train-*.tar"):
        path.rename(folder / path.name.removeprefix("train-"))
    return folder


@pytest.mark.parametrize(
    "pattern",
    ["{00000..00011}.tar", "{8..11}", "{3..1}x", "{a,b}{1..2}", "a{,b}c", "plain", "{098..101}", "{1..1}"],
)
def test_braces_expand_as_in_a_shell(pattern: str) -> None:
    bash = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == bash.stdout.split()


def test_a_pattern_names_the_shards_whatever_split_is_asked_for(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"cc/{n:05d}.tar" for n in range(12)), "cc/00003.json", "cc/x.tar")
    place = tmp_path / "cc" / "{00009..00011}.tar"
    wanted = ["cc/00009.tar", "cc/00010.tar", "cc/00011.tar"]
    assert _names(tmp_path, place, "train") == _names(tmp_path, place, "val") == wanted
    assert _names(tmp_path, tmp_path / "cc" / "0001*.tar", "train") == ["cc/00010.tar", "cc/00011.tar"]
    assert _names(tmp_path, tmp_path / "cc" / "x.tar", "train") == ["cc/x.tar"]
    assert list(splits_there(place)) == ["train"]
    with pytest.raises(DataError) as error:
        shard_paths(tmp_path / "cc" / "{00009..00012}.tar", "train")
    assert "1 of 4" in error.value.what and "00012.tar" in error.value.what


def test_shards_in_subfolders_have_their_split_by_name_or_folder(tmp_path: Path) -> None:
    _touch(
        tmp_path, "a/2.tar", "a/10.tar", "b/Validation/0.tar", "b/train/0.tar", "c/val-0.tar", "c/train-1.tar"
    )
    _touch(tmp_path, "d/test-0.tar", ".hidden/3.tar", "e/other.tar")
    assert _names(tmp_path, tmp_path, "train") == ["a/2.tar", "a/10.tar", "b/train/0.tar", "c/train-1.tar"]
    assert _names(tmp_path, tmp_path, "val") == ["b/Validation/0.tar", "c/val-0.tar"]
    assert _names(tmp_path, tmp_path, "test") == ["d/test-0.tar"]
    _touch(tmp_path, "train-0.tar")  # then it is a set itself
    assert _names(tmp_path, tmp_path, "train") == ["train-0.tar"] and _names(tmp_path, tmp_path, "val") == []


def test_several_places_are_one_set(tmp_path: Path, make_samples: MakeSamples) -> None:
    samples = make_samples(10)
    a, b = _shards(tmp_path / "a", samples[:6]), _shards(tmp_path / "b", samples)
    (b / "templates.txt").write_text("a {}\n")
    (b / "classes.txt").write_text("x\ny\nz\n")
    place = Path(f"{a}::{b}/{{00000..00001}}.tar")
    opened = open_split(place, "train")
    same = [sample.key for sample in samples[:6]]
    assert list(opened.keys) == [
        *same,
        *(f"0000{n // 4}/{key}" for n, key in enumerate(same)),
        "s0006",
        "s0007",
    ]
    assert [sample.image for sample in opened] == [each.image for each in samples[:6] + samples[:8]]
    assert read_templates(place) == opened.templates == ["a {}"]
    assert read_classes(place) == opened.classes == ["x", "y", "z"]
    with pytest.raises(DataError) as error:
        open_split(Path(f"{a}::{tmp_path / 'c'}"), "train")
    assert error.value.where == str(tmp_path / "c")


def test_a_share_is_held_out_by_the_digests_of_keys(tmp_path: Path, make_samples: MakeSamples) -> None:
    samples = make_samples(40)
    folder = _shards(tmp_path / "set", samples, size=7)
    place = Path(f"{folder}#val=0.3")
    chosen = [sample for sample in samples if key_digest(sample.key) < 0.3 * 2**64]
    train, val = open_split(place, "train"), open_split(place, "val")
    assert 0 < len(val) < 40 and list(val) == chosen
    assert list(train) == [sample for sample in samples if sample not in chosen]
    assert train.key_digests.tolist() == [key_digest(key) for key in train.keys]
    assert train.tokens(5, 0, 77).tolist() != val.tokens(0, 0, 77).tolist()
    assert list(splits_there(place)) == ["train", "val"]
    assert len({train.digest, val.digest, open_split(folder, "train").digest}) == 3


def test_bad_samples_count_in_the_split_that_they_would_be_in(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    samples = [
        Sample(each.key, each.image, (), 0) if n < 3 else each for n, each in enumerate(make_samples(60))
    ]
    place = Path(f"{_shards(tmp_path / 'set', samples, size=60)}#val=0.2")
    train, val = open_split(place, "train", min_good_share=0.5), open_split(place, "val", min_good_share=0.5)
    assert len(train) + len(val) == 57 and len(train.skipped) + len(val.skipped) == 3
    assert all(key_digest(key) >= 0.2 * 2**64 for key, _ in train.skipped)


def test_a_folder_may_have_the_signs_of_patterns_in_its_name(tmp_path: Path) -> None:
    _touch(tmp_path, "{a,b}*.tar/0.tar", "a.tar")
    assert _names(tmp_path, tmp_path / "{a,b}*.tar", "train") == ["{a,b}*.tar/0.tar"]


@pytest.mark.parametrize("place", ["one::", "::one", "one::::two"])
def test_a_place_without_a_name_is_not_the_folder_that_the_command_runs_in(place: str) -> None:
    with pytest.raises(UsageError, match="names no place"):
        shard_paths(Path(place), "train")


@pytest.mark.parametrize("share", ["0", "1", "x", "-0.1", "nan"])
def test_what_is_no_share_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UsageError):
        shard_paths(Path(f"{tmp_path}#val={share}"), "train")


def test_a_share_of_what_has_its_own_or_leaves_nothing_is_refused(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    write_shards(tmp_path, "train", make_samples(5))
    with pytest.raises(UsageError) as error:
        open_split(Path(f"{tmp_path}#val=0.0001"), "val")
    assert "#val=0.0001" in error.value.what
    write_shards(tmp_path, "val", make_samples(2))
    with pytest.raises(UsageError) as error:
        open_split(Path(f"{tmp_path}#val=0.5"), "val")
    assert "of its own" in error.value.what
