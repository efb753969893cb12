"""Facts of kdx/data/image_report.py: images are counted, measured, compared, and broken ones named."""

import json
from collections.abc import Callable
from pathlib import Path

from kdx.data.image_report import describe_images
from kdx.data.shards import Sample, ShardSet, open_split, write_shards

MakePhoto = Callable[..., bytes]


def _splits(folder: Path, train: list[bytes], val: list[bytes]) -> dict[str, ShardSet]:
    for split, images in (("train", train), ("val", val)):
        write_shards(folder, split, [Sample(f"{n}", image, ("x",), None) for n, image in enumerate(images)])
    return {split: open_split(folder, split) for split in ("train", "val")}


def test_sizes_and_formats_are_counted(tmp_path: Path, make_photo: MakePhoto) -> None:
    photos = [make_photo(1, size=20), make_photo(2, size=30, kind="PNG"), make_photo(3, size=90)]
    report = describe_images(_splits(tmp_path, photos, [make_photo(4, size=40)]))
    assert json.loads(json.dumps(report)) == report
    assert report["images"] == 4 and report["formats"] == {"JPEG": 3, "PNG": 1}
    assert report["bytes"] == sum(map(len, photos)) + len(make_photo(4, size=40))
    assert report["shorter_side"] == {"min": 20, "median": 35, "max": 90}
    assert report["longer_side"] == {"min": 26, "median": 41, "max": 96}
    assert report["duplicates"] == 0 and report["broken"] == []


def test_equal_images_are_found_within_and_across_splits(tmp_path: Path, make_photo: MakePhoto) -> None:
    a, b, c, d = map(make_photo, range(4))
    report = describe_images(_splits(tmp_path, [a, b, a, c, a], [d, c, d]))
    assert report["duplicates"] == 4 and report["held_out_duplicates"] == 1
    groups = sorted(report["duplicate_groups"])
    assert groups == [["train/0", "train/2", "train/4"], ["train/3", "val/1"], ["val/0", "val/2"]]


def test_broken_images_are_named_all_of_them_only_when_decoded(tmp_path: Path, make_photo: MakePhoto) -> None:
    whole = make_photo(1, size=200)
    splits = _splits(tmp_path, [whole, whole[: len(whole) // 2], whole[:4]], [whole])
    report = describe_images(splits)
    assert [image["key"] for image in report["broken"]] == ["train/2"] and not report["decoded"]
    calls: list[tuple[int, int]] = []
    report = describe_images(
        splits, decode=True, progress=lambda done, total, note="": calls.append((done, total))
    )
    assert [image["key"] for image in report["broken"]] == ["train/1", "train/2"] and report["decoded"]
    assert "truncated" in report["broken"][0]["reason"] and calls[-1] == (4, 4)
