"""Facts of kdx/data/sheet.py: a page with images of every split and what is said of them, which needs nothing else."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.data.shards import Sample, open_split, write_shards
from kdx.data.sheet import PICTURES, write_sheet

MakePhoto = Callable[..., bytes]


def test_images_are_shown_with_their_captions_and_classes(tmp_path: Path, make_photo: MakePhoto) -> None:
    captions = ("<script>alert(1)</script>", *(f"caption {n}" for n in range(6)))
    train = [Sample("a/b", make_photo(1), captions, 1), Sample("broken", make_photo(2)[:70], ("كلب",), 9)]
    write_shards(tmp_path / "my set", "train", train)
    write_shards(tmp_path / "my set", "val", [Sample("c", make_photo(3), (), 0)])
    (tmp_path / "my set" / "classes.txt").write_text("cat\ndog & co\n")
    splits = {
        name: open_split(tmp_path / "my set", name, need_captions=False, min_good_share=0)
        for name in ("train", "val")
    }
    write_sheet(tmp_path / "my set", splits, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "my set" in page and "train: all images" in page and "val: all images" in page
    assert page.count("<img ") == 2 and "40 × 46" in page
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert "dog &amp; co" in page and "caption 3" in page and "… 2 more" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_folder_may_have_a_name_that_is_no_text(tmp_path: Path, make_photo: MakePhoto) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_shards(folder, "train", [Sample("a", make_photo(1), ("x",), None)])
    write_sheet(folder, {"train": open_split(folder, "train")}, tmp_path / "sheet.html")
    assert "caf\\udce9" in (tmp_path / "sheet.html").read_text(encoding="utf-8")


def test_a_folder_is_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "sheet.html").mkdir()
    with pytest.raises(UsageError, match="is a folder, not a file"):
        write_sheet(tmp_path, {}, tmp_path / "sheet.html")


def test_of_a_large_split_some_are_shown(tmp_path: Path, make_photo: MakePhoto) -> None:
    photo, broken = make_photo(1), make_photo(1)[:70]
    samples = [Sample(f"{n:04d}", broken if n == 0 else photo, ("x",), None) for n in range(PICTURES + 5)]
    write_shards(tmp_path, "train", samples)
    write_sheet(tmp_path, {"train": open_split(tmp_path, "train")}, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert f"{PICTURES} of {PICTURES + 5} images" in page
    assert page.count("<img ") == PICTURES - 1 and page.count('class="broken"') == 1


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_sheet(tmp_path, {}, tmp_path / "sheet.png")
    assert "call it sheet.html" in str(caught.value.remedy) and list(tmp_path.iterdir()) == []
