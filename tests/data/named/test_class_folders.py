from __future__ import annotations

import csv
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.named import open_named
from kdx.data.named.table import class_folders, find_set

Writer = Callable[..., None]


def folders_of(name: str) -> list[str]:
    return list(class_folders(find_set(name)))


def test_imagenet_from_its_synset_folders(real_photos: Path, tmp_path: Path) -> None:
    sample = real_photos / "imagenet-sample"
    with (sample / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        folder = tmp_path / "val" / row["synset"]
        folder.mkdir(parents=True)
        shutil.copy(sample / "small" / row["file"], folder / f"{row['synset']}_1.JPEG")
    found = open_named("imagenet", tmp_path)
    assert len(found) == 1000
    assert found.classes is not None and len(found.classes) == 1000
    assert found.templates is not None and len(found.templates) == 80
    for number, row in enumerate(sorted(rows, key=lambda row: int(row["class_index"]))):
        assert found.label(number) == int(row["class_index"])
        assert found.keys[number] == f"val/{row['synset']}/{row['synset']}_1.JPEG"
    assert found.image(0) == (sample / "small/n01440764_tench.jpg").read_bytes()
    assert not found.skipped


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("imagenet-v2", "imagenetv2-matched-frequency-format-val"),
        ("imagenet-v2-threshold-0.7", "imagenetv2-threshold0.7-format-val"),
        ("imagenet-v2-top-images", "imagenetv2-top-images-format-val"),
    ],
)
def test_v2s_folders_sort_as_numbers(tmp_path: Path, write_folders: Writer, name: str, folder: str) -> None:
    write_folders(tmp_path / folder, map(str, range(1000)), suffix="jpeg")
    (tmp_path / "imagenetv2-another").mkdir()
    found = open_named(name, tmp_path)
    # by string the third folder would be 10
    assert [Path(key).parent.name for key in found.keys[:3]] == ["0", "1", "2"]
    assert [found.label(row) for row in range(1000)] == list(range(1000))


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_masked_sets_count_labels_within_their_classes(
    name: str, tmp_path: Path, write_folders: Writer
) -> None:
    folders = folders_of(name)
    write_folders(tmp_path / name, folders, suffix="jpg")
    found = open_named(name, tmp_path)
    assert found.classes is not None and len(found.classes) == 200
    assert [found.label(row) for row in range(len(found))] == list(range(200))
    every = class_folders(find_set("imagenet"))
    assert found.classes[7] == every[folders[7]]


def test_a_missing_class_folder_is_named(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(
        tmp_path / "sketch", [name for name in folders_of("imagenet-sketch") if name != "n01443537"]
    )
    with pytest.raises(DataError, match=r"1 of 1,000 class folders are missing \(n01443537\)"):
        open_named("imagenet-sketch", tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, folders_of("imagenet-a"))
    for file in (tmp_path / "n01498041").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"n01498041: the class folder holds no images"):
        open_named("imagenet-a", tmp_path)


def test_folders_outside_the_mask_are_refused(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, folders_of("imagenet"))
    with pytest.raises(DataError, match="800 folders are none of the set's 200 classes") as raised:
        open_named("imagenet-r", tmp_path)
    assert "another set" in str(raised.value.remedy)


def test_what_an_unpacked_archive_leaves_is_no_class(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path / "imagenet-a", folders_of("imagenet-a"))
    write_folders(tmp_path / "imagenet-a", ["__MACOSX", ".ipynb_checkpoints"])
    (tmp_path / "imagenet-a" / "README.txt").write_text("200 classes")
    (tmp_path / "imagenet-a" / "n01498041" / "._photo.jpg").write_bytes(b"of macOS")
    assert len(open_named("imagenet-a", tmp_path)) == 200


def test_another_number_of_images_than_published_is_said(
    tmp_path: Path, write_folders: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    write_folders(tmp_path, folders_of("imagenet-a"), each=2)
    open_named("imagenet-a", tmp_path)
    assert "holds 400 images, the published imagenet-a 7,500" in caplog.text


def test_a_set_can_be_sent_to_another_process(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, folders_of("imagenet-a"))
    found = open_named("imagenet-a", tmp_path)
    copy = pickle.loads(pickle.dumps(found))
    assert (copy.keys, copy.image(3)) == (found.keys, found.image(3))
