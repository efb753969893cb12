"""Facts of kdx/data/describe.py: what is said of a set is what lies in its shards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.describe import describe_set
from kdx.data.shards import Sample, write_shards

MakePhoto = Callable[..., bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], None]


def test_both_splits_are_counted(tmp_path: Path, make_photo: MakePhoto) -> None:
    train = [
        Sample(f"a{n}", make_photo(n, size=20 + n % 2), ("same", f"other {n}"), n if n < 3 else None)
        for n in range(5)
    ]
    write_shards(tmp_path, "train", train, samples_per_shard=2)
    write_shards(tmp_path, "val", [Sample("b", make_photo(9), ("x",), 0)])
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    (tmp_path / "templates.txt").write_text("a {}\n")
    described = describe_set(tmp_path)
    assert json.loads(json.dumps(described)) == described
    assert described["splits"]["train"] == {
        "shards": 3,
        "samples": 5,
        "captions": 10,
        "distinct_captions": 6,
        "caption_words": {"min": 1, "median": 2, "max": 2},
        "caption_tokens": {"min": 3, "median": 4, "max": 4, "full": 0},
        "labelled": 3,
        "image_sizes": {"20x26": 3, "21x27": 2},
        "skipped": [],
        "others": {},
    }
    assert described["splits"]["val"]["samples"] == 1
    assert described["classes"] == ["cat", "dog", "fish"] and described["templates"] == ["a {}"]


def test_bad_samples_are_named_however_many_there_are(
    tmp_path: Path, make_photo: MakePhoto, write_tar: WriteTar
) -> None:
    members = [("0.jpg", make_photo(0)), ("0.txt", b"x"), ("1.jpg", b"no image"), ("1.txt", b"y")]
    members += [("2.jpg", make_photo(2)), ("list.csv", b"x")]  # without a caption, and no sample at all
    write_tar(tmp_path / "train-0.tar", [*members, *((f"bad{n}.txt", b"x") for n in range(9))])
    split = describe_set(tmp_path)["splits"]["train"]
    assert (split["samples"], split["captions"], split["others"]) == (3, 2, {".csv": 1})
    assert split["image_sizes"] == {"40x46": 2, "unreadable": 1}
    assert [sample["key"] for sample in split["skipped"]] == [f"bad{n}" for n in range(9)]
    assert {sample["reason"] for sample in split["skipped"]} == {
        "no image (jpg, jpeg, jfif, png, webp, avif)"
    }


def test_sizes_are_read_from_at_most_16_images_of_the_whole_split(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    samples = [Sample(f"{n:03d}", make_photo(0, size=20 + n // 50), ("x",), None) for n in range(100)]
    write_shards(tmp_path, "val", samples)
    sizes = describe_set(tmp_path)["splits"]["val"]["image_sizes"]
    assert sum(sizes.values()) == 16 and set(sizes) == {"20x26", "21x27"}


def test_a_folder_without_shards_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        describe_set(tmp_path)
    assert error.value.where == str(tmp_path) and "train-00000.tar" in str(error.value.remedy)
