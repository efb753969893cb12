"""Facts of kdx/data/set_folder.py: the files of a set appear when all are whole, or not at all."""

from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.data.set_folder import building_set, check_set_free, set_files

NAMES = ("train-00000.tar", "train-00001.tar", "val-00000.tar", "templates.txt", "classes.txt")


def _fill(folder: Path, content: str, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / name).write_text(content)


def _content(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(folder.iterdir())}


def test_files_appear_when_the_block_has_ended(tmp_path: Path) -> None:
    with building_set(tmp_path / "deep" / "set") as building:
        _fill(building, "new")
        assert not (tmp_path / "deep" / "set").exists()
    assert _content(tmp_path / "deep" / "set") == dict.fromkeys(sorted(NAMES), "new")
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["set"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), building_set(tmp_path / "set") as building:
        _fill(building, "half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_the_old_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    _fill(tmp_path / "set", "old")
    with pytest.raises(ZeroDivisionError), building_set(tmp_path / "set", overwrite=True) as building:
        _fill(building, "half")
        raise ZeroDivisionError
    assert _content(tmp_path / "set") == dict.fromkeys(sorted(NAMES), "old")


def test_a_new_set_replaces_all_of_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    _fill(tmp_path, "old", (*NAMES, "test-00000.tar", "notes.md", "train.csv"))
    with building_set(tmp_path, overwrite=True) as building:
        _fill(building, "new", ("train-00000.tar", "classes.txt"))
    assert _content(tmp_path) == {
        "classes.txt": "new",
        "notes.md": "old",
        "train-00000.tar": "new",
        "train.csv": "old",
    }


@pytest.mark.parametrize("name", [*NAMES, "test-00000.tar"])
def test_any_part_of_a_set_is_protected(tmp_path: Path, name: str) -> None:
    _fill(tmp_path, "old", (name,))
    with pytest.raises(UsageError) as error:
        check_set_free(tmp_path)
    assert error.value.where == str(tmp_path) and "--overwrite" in str(error.value.remedy)
    check_set_free(tmp_path, overwrite=True)


def test_a_file_is_no_place_for_a_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError), building_set(tmp_path / "file", overwrite=True):
        pass
    assert _content(tmp_path) == {"file": "mine"}


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with building_set(tmp_path / "link") as building:
        _fill(building, "new")
    assert (tmp_path / "link").is_symlink()
    assert len(_content(tmp_path / "real")) == len(NAMES)


def test_classes_come_first_so_that_a_set_that_loses_a_part_loses_them_too(tmp_path: Path) -> None:
    _fill(tmp_path, "old", (*NAMES, "notes.md"))
    names = [file.name for file in set_files(tmp_path)]
    assert names[0] == "classes.txt" and set(names) == set(NAMES)


def test_a_set_is_not_written_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as error:
        check_set_free(tmp_path / "file" / "set")
    assert f"{tmp_path / 'file'} " in error.value.what
