from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.named import open_named

Writer = Callable[..., None]


def test_classes_are_called_by_their_folders(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, ["tabby_cat", "Dog"], each=2, suffix="png")
    found = open_named("folder", tmp_path)
    assert found.classes == ["Dog", "tabby cat"]
    assert [found.label(row) for row in range(4)] == [0, 0, 1, 1]
    assert found.templates is None


def test_numbers_are_in_their_order(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, ["10", "9", "1"])
    assert open_named("folder", tmp_path).classes == ["1", "9", "10"]
    write_folders(tmp_path, ["01", "001", "0001"])  # the order of equal ones does not depend on the process
    assert open_named("folder", tmp_path).classes == ["0001", "001", "01", "1", "9", "10"]


def test_pictures_without_class_folders(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    (tmp_path / "cat.jpg").write_bytes(make_photo(0))
    with pytest.raises(DataError, match=r"neither CLASS/\*\.jpg"):
        open_named("folder", tmp_path)


def test_an_empty_class(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path, ["cat"])
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog: the class folder holds no images"):
        open_named("folder", tmp_path)
