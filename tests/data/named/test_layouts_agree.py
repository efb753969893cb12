"""The same photos in each layout that takes them are the same set."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.data.named import ImageList, open_named

PHOTOS = 40


@pytest.fixture
def photos(real_photos: Path) -> list[tuple[str, Path]]:
    """(class, photo) of some ImageNet classes, in the order of the classes' names."""
    with (real_photos / "imagenet-sample/labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:PHOTOS]
    return sorted((row["class_name"], real_photos / "imagenet-sample/small" / row["file"]) for row in rows)


def in_folders(root: Path, photos: list[tuple[str, Path]]) -> ImageList:
    for name, photo in photos:
        (root / name.replace(" ", "_")).mkdir(parents=True)
        shutil.copy(photo, root / name.replace(" ", "_"))
    return open_named("folder", root)


def in_a_table(root: Path, photos: list[tuple[str, Path]]) -> ImageList:
    root.mkdir()
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "label"])
        writer.writerows([photo, name] for name, photo in photos)
    return open_named("csv", root)


def test_folders_a_table_and_shards(
    photos: list[tuple[str, Path]], tmp_path: Path, write_wds: Callable[..., None]
) -> None:
    names = [name for name, _ in photos]
    members = [
        (f"s{number:07d}.{suffix}", content)
        for number, (_, photo) in enumerate(photos)
        for suffix, content in (("cls", str(number).encode()), ("jpg", photo.read_bytes()))
    ]
    write_wds(tmp_path / "wds", [members[:60], members[60:]], classnames="\n".join(names) + "\n")
    sets = [
        in_folders(tmp_path / "folders", photos),
        in_a_table(tmp_path / "table", photos),
        open_named("wds", tmp_path / "wds"),
    ]
    for found in sets:
        assert len(found) == PHOTOS
        assert found.classes == names
        assert [found.label(row) for row in range(PHOTOS)] == list(range(PHOTOS))
        assert [found.image(row) for row in range(PHOTOS)] == [photo.read_bytes() for _, photo in photos]
