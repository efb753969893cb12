"""Facts of kdx/data/sources/folder.py: texts beside images, and classes as folders."""

import os
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.sources.folder import CaptionedFolder, ClassFolders, open_folder
from kdx.data.sources.source import Row, Unusable


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _rows(folder: Path) -> tuple[list[Row], dict[str, str]]:
    left_out: dict[str, str] = {}
    return list(open_folder(folder).rows(left_out.__setitem__)), left_out


def test_a_text_beside_an_image_is_its_caption(tmp_path: Path) -> None:
    _fill(
        tmp_path,
        {
            "a.JPG": b"x",
            "a.txt": "\ufeff a cät\n".encode(),
            "sub/b.1.png": b"x",
            "sub/b.1.txt": b"two",
            ".hidden/c.jpg": b"x",
            "notes.md": b"",
        },
    )
    rows, left_out = _rows(tmp_path)
    assert rows == [Row("a.JPG", "a", ("a cät",)), Row("sub/b.1.png", "sub/b_1", ("two",))] and left_out == {}


def test_images_and_texts_without_their_other_half_are_named(tmp_path: Path) -> None:
    _fill(
        tmp_path,
        {"a.jpg": b"x", "a.txt": b"a", "b.jpg": b"x", "c.txt": b"c", "d.jpg": b"x", "d.txt": b"\xff\xfe"},
    )
    rows, left_out = _rows(tmp_path)
    assert [row.image for row in rows] == ["a.jpg"]
    assert left_out == {
        "b.jpg": "there is no b.txt beside it",
        "c.txt": "there is no image beside it",
        "d.jpg": "its .txt is not UTF-8 text",
    }


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    _fill(tmp_path, {"dog/1.jpg": b"x", "cat/2.png": b"x", "cat/deep/3.heic": b"x", "stray.jpg": b"x"})
    rows, left_out = _rows(tmp_path)
    assert [(row.image, row.label) for row in rows] == [
        ("cat/2.png", "cat"),
        ("cat/deep/3.heic", "cat/deep"),
        ("dog/1.jpg", "dog"),
    ]
    assert left_out == {"stray.jpg": "lies in no folder of a class"}


def test_folders_called_as_splits_are_splits(tmp_path: Path) -> None:
    _fill(tmp_path, {"train/cat/1.jpg": b"x", "val/cat/1.jpg": b"x"})
    rows, _ = _rows(tmp_path)
    assert rows == [
        Row("train/cat/1.jpg", "train/cat/1", (), "cat", "train"),
        Row("val/cat/1.jpg", "val/cat/1", (), "cat", "val"),
    ]


def test_which_of_both_it_is_follows_from_the_files(tmp_path: Path) -> None:
    _fill(tmp_path / "classes", {"cat/1.jpg": b"x"})
    _fill(tmp_path / "texts", {"cat/1.jpg": b"x", "cat/1.txt": b"a"})
    assert isinstance(open_folder(tmp_path / "classes"), ClassFolders)
    assert isinstance(open_folder(tmp_path / "texts"), CaptionedFolder)


@pytest.mark.parametrize(
    ("files", "said"), [({"1.jpg": b"x"}, "nothing says"), ({"a.md": b""}, "no pictures")]
)
def test_a_folder_that_says_nothing_is_refused(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    _fill(tmp_path, files)
    with pytest.raises(DataError, match=said) as caught:
        open_folder(tmp_path)
    assert "--captions" in str(caught.value.remedy)


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    _fill(tmp_path, {"cat/1.jpg": b"x", "cats/2.jpg": b"x"})
    (tmp_path / "cats" / "more").symlink_to(tmp_path / "cat")  # whose name cats begins with
    rows, _ = _rows(tmp_path)
    assert [row.image for row in rows] == ["cat/1.jpg", "cats/2.jpg", "cats/more/1.jpg"]


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    _fill(tmp_path, {"a/1.jpg": b"x", "b/2.jpg": b"x"})
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    rows, _ = _rows(tmp_path)
    assert [row.image for row in rows] == ["a/1.jpg", "a/b/2.jpg", "b/2.jpg", "b/a/1.jpg"]


def test_a_class_whose_folder_has_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    _fill(tmp_path, {f"{odd}/1.jpg": b"x", "cat/1.jpg": b"x"})
    rows, left_out = _rows(tmp_path)
    assert [row.image for row in rows] == ["cat/1.jpg"]
    assert left_out == {f"{odd}/1.jpg": "the name of its class's folder is not UTF-8 text"}


def test_endings_may_be_written_large(tmp_path: Path) -> None:
    _fill(tmp_path, {"DSC1.JPG": b"x", "DSC1.TXT": b"a dog", "LONE.TXT": b""})
    rows, left_out = _rows(tmp_path)
    assert rows == [Row("DSC1.JPG", "DSC1", ("a dog",))]
    assert left_out == {"LONE.TXT": "there is no image beside it"}


def test_links_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    _fill(tmp_path, {"cat/1.jpg": b"x"})
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    rows, _ = _rows(tmp_path)
    assert [row.image for row in rows] == ["cat/1.jpg"]


def test_a_link_to_itself_hides_nothing_beside_it(tmp_path: Path) -> None:
    _fill(tmp_path, {"cats/1.jpg": b"x"})
    (tmp_path / "cats" / "2.jpg").symlink_to("2.jpg")
    rows, _ = _rows(tmp_path)
    assert [row.image for row in rows] == ["cats/1.jpg", "cats/2.jpg"]
    with pytest.raises(Unusable):
        open_folder(tmp_path).read("cats/2.jpg")
