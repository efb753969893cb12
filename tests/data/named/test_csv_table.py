"""Facts of csv_table.py and tars.py."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.named import open_named

Write = Callable[[str], Path]


@pytest.fixture
def table(tmp_path: Path, make_photo: Callable[..., bytes]) -> Write:
    """table(text): photos a.jpg … l.jpg in photos/, and the text as list.csv."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abcdefghijkl"):
        (tmp_path / f"photos/{name}.jpg").write_bytes(make_photo(number))

    def write(text: str) -> Path:
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_classes_by_name(table: Write, make_photo: Callable[..., bytes]) -> None:
    root = table("filepath,label\nphotos/b.jpg,tabby cat\nphotos/a.jpg,dog\n")
    for found in (open_named("csv", root), open_named("csv", root / "list.csv")):
        assert found.classes == ["dog", "tabby cat"]
        assert [found.label(row) for row in range(2)] == [1, 0]
        assert found.image(0) == make_photo(1)
        assert pickle.loads(pickle.dumps(found)).image(1) == make_photo(0)


def test_numbers_want_names(table: Write) -> None:
    root = table("filepath,label\nphotos/a.jpg,1\nphotos/b.jpg,0\n")
    with pytest.raises(DataError, match="the labels are numbers"):
        open_named("csv", root)
    (root / "names.txt").write_text("cat\ndog\n")
    found = open_named("csv", root, classes=root / "names.txt")
    assert [found.label(row) for row in range(2)] == [1, 0]


def test_names_may_have_more_classes_than_occur(table: Write) -> None:
    root = table("filepath,label\nphotos/a.jpg,dog\n")
    (root / "names.txt").write_text("cat\ndog\nhorse\n")
    found = open_named("csv", root, classes=root / "names.txt")
    assert (found.label(0), len(found.classes or [])) == (1, 3)


def test_a_label_that_is_no_class_is_counted_and_named(table: Write) -> None:
    lines = "".join(f"photos/{name}.jpg,cat\n" for name in "abcdefghijk")
    root = table(f"filepath,label\n{lines}photos/l.jpg,unicorn\n")
    (root / "names.txt").write_text("cat\ndog\n")
    found = open_named("csv", root, classes=root / "names.txt")
    assert len(found) == 11
    assert found.skipped == [("photos/l.jpg", "its label is 'unicorn', neither an integer nor a known class")]


def test_lines_of_one_image_are_its_captions(table: Write) -> None:
    root = table("title\tfilepath\nA dog.\tphotos/a.jpg\nA cat.\tphotos/b.jpg\nA hound.\tphotos/a.jpg\n")
    found = open_named("csv", root)
    assert [found.captions(row) for row in range(2)] == [("A dog.", "A hound."), ("A cat.",)]
    assert found.protocol == "1 to 2 captions an image"
    assert found.classes is None


def test_of_a_table_with_splits_the_held_out_images_are_scored(
    table: Write, caplog: pytest.LogCaptureFixture
) -> None:
    splits = {"a": "train", "b": "validation", "c": "test", "d": "Val", "e": ""}
    lines = "".join(f"photos/{name}.jpg,cat,{split}\n" for name, split in splits.items())
    root = table(f"filepath,label,split\n{lines}")
    assert open_named("csv", root).keys == ["photos/b.jpg", "photos/d.jpg"]
    assert "scored are the 2 of its 5 images that are in the split val" in caplog.text
    root = table("filepath,label,split\nphotos/a.jpg,cat,train\nphotos/b.jpg,dog,test\n")
    assert open_named("csv", root).keys == ["photos/b.jpg"]
    root = table("filepath,label,split\nphotos/a.jpg,cat,train\n")
    with pytest.raises(DataError, match="has train, and nothing that is held out"):
        open_named("csv", root)


def test_other_columns_are_shown(table: Write) -> None:
    root = table("datei,klasse\nphotos/a.jpg,dog\n")
    with pytest.raises(DataError, match="its columns are: datei, klasse") as raised:
        open_named("csv", root)
    assert raised.value.remedy == "call the columns filepath, and label or title"


def test_an_absent_image_and_two_labels_are_counted_and_named(
    table: Write, caplog: pytest.LogCaptureFixture
) -> None:
    good = "".join(f"photos/{name}.jpg,cat\n" for name in "abcdefghijkl")
    root = table(f"filepath,label\n{good}photos/absent.jpg,cat\n")
    assert open_named("csv", root).skipped == [("photos/absent.jpg", "the image is absent")]
    assert "left out photos/absent.jpg of csv: the image is absent" in caplog.text
    root = table(f"filepath,label\n{good}photos/a.jpg,dog\n")
    assert open_named("csv", root).skipped == [("photos/a.jpg", "it has several labels: cat, dog")]


def test_captions_in_another_encoding(table: Write) -> None:
    root = table("")
    (root / "list.csv").write_bytes("filepath,title\nphotos/a.jpg,Füchse\n".encode("latin1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_named("csv", root)


def test_several_tables_are_named(table: Write) -> None:
    root = table("filepath,label\nphotos/a.jpg,dog\n")
    (root / "other.tsv").write_text("")
    with pytest.raises(DataError, match=r"several tables: list\.csv, other\.tsv"):
        open_named("csv", root)


def test_cc3m_from_clip_kds_table_and_from_img2datasets_shards(
    tmp_path: Path, make_photo: Callable[..., bytes], write_wds: Callable[..., None]
) -> None:
    (tmp_path / "val/7").mkdir(parents=True)
    (tmp_path / "val/7/1007.jpg").write_bytes(make_photo(1))
    (tmp_path / "cc3m_val.csv").write_text("title\tfilepath\na very typical bus station\tval/7/1007.jpg\n")
    found = open_named("cc3m-val", tmp_path)
    assert found.captions(0) == ("a very typical bus station",)
    write_wds(
        tmp_path / "downloaded",
        [
            [
                ("000000000.jpg", make_photo(1)),
                ("000000000.txt", b"a bus"),
                ("000000000.json", b'{"caption": "a bus", "url": "https://x/y.jpg", "width": 40}'),
            ]
        ],
    )
    (tmp_path / "downloaded/test").rename(tmp_path / "shards")
    (tmp_path / "shards/0.tar").rename(tmp_path / "shards/00000.tar")
    (tmp_path / "shards/nshards.txt").unlink()
    found = open_named("cc3m-val", tmp_path / "shards")
    assert (found.captions(0), found.protocol) == (("a bus",), "1 caption an image")
    shutil.copy(
        tmp_path / "shards/00000.tar", tmp_path / "shards/train-00000.tar"
    )  # of a set with a part held out
    assert len(open_named("cc3m-val", tmp_path / "shards")) == 1


def test_what_is_neither_a_table_nor_a_folder() -> None:
    with pytest.raises(DataError, match="there is no csv here"):
        open_named("csv", Path("/dev/null"))
