"""Facts of kdx/core/folders.py: a sealed folder is whole or does not open."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdx.core import folders
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import MANIFEST, check_free, open_sealed, read_json, sealed_folder, write_atomic


def _seal(path: Path, *, kind: str = "thing", overwrite: bool = False, content: str = "hello") -> None:
    with sealed_folder(path, kind, overwrite=overwrite, seeds={"init": 3}, fields={"width": 7}) as folder:
        (folder / "file.txt").write_text(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "inner.txt").write_text("inner")


def _say(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **fields}))


def test_a_sealed_folder_opens_and_tells_where_it_came_from(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    manifest = open_sealed(tmp_path / "a", "thing")
    assert set(manifest.digest) == {"file.txt", "sub/inner.txt"}
    assert manifest.fields == {"width": 7}
    assert manifest.provenance["seeds"] == {"init": 3}
    assert manifest.provenance["packages"]["numpy"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "file.txt").write_text("hellO"), "file has changed"),
        (lambda folder: (folder / "file.txt").unlink(), "file is missing"),
        (lambda folder: (folder / "more.txt").write_text(""), "does not belong"),
        (lambda folder: (folder / MANIFEST).unlink(), "has no manifest.json"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "cannot be read"),
        (lambda folder: _say(folder, digest=["file.txt"]), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_damage_is_named_and_refused(tmp_path: Path, damage, what: str) -> None:
    _seal(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(DataError, match=what):
        open_sealed(tmp_path / "a", "thing")


def test_another_kind_or_schema_is_refused(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(DataError, match="is of kind thing, not checkpoint"):
        open_sealed(tmp_path / "a", "checkpoint")
    _say(tmp_path / "a", schema=99)
    with pytest.raises(DataError, match="has schema 99"):
        open_sealed(tmp_path / "a", "thing")


def test_an_error_leaves_nothing_and_keeps_the_old_folder(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(RuntimeError), sealed_folder(tmp_path / "a", "thing", overwrite=True) as folder:
        (folder / "file.txt").write_text("half")
        raise RuntimeError
    assert open_sealed(tmp_path / "a", "thing")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_only_a_folder_of_the_same_kind_is_overwritten(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(UsageError, match="exists already"):
        _seal(tmp_path / "a")
    with pytest.raises(UsageError, match="not a folder of kdx of kind other"):
        _seal(tmp_path / "a", kind="other", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="will not be overwritten"):
        _seal(tmp_path / "mine", overwrite=True)
    _seal(tmp_path / "a", overwrite=True, content="new")
    assert (tmp_path / "a" / "file.txt").read_text() == "new"


def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for path in ("file/a", "file/a/b"):
        with pytest.raises(UsageError, match=f"{tmp_path / 'file'} is a file, not a folder"):
            check_free(tmp_path / path, "thing")
    with pytest.raises(UsageError, match="exists already"):
        check_free(Path("/"), "thing")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(SetupError, match=f"no permission to write in {tmp_path}"):
        check_free(tmp_path / "new" / "a", "thing")


def test_nothing_is_written_into_a_sealed_folder(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(
        UsageError, match=f"lies in the thing {tmp_path / 'a'}, which would no longer be whole"
    ):
        _seal(tmp_path / "a" / "sub" / "b")
    open_sealed(tmp_path / "a", "thing")


def test_a_place_behind_a_missing_folder_is_the_place_itself(tmp_path: Path) -> None:
    _seal(tmp_path / "a", content="kept")
    for kind in ("thing", "other"):
        with pytest.raises(UsageError, match="exists already"):
            _seal(tmp_path / "missing" / ".." / "a", kind=kind)
    with pytest.raises(UsageError, match="of kind other"):
        _seal(tmp_path / "missing" / ".." / "a", kind="other", overwrite=True)
    assert (tmp_path / "a" / "file.txt").read_text() == "kept" and not (tmp_path / "missing").exists()


def test_the_second_of_two_writers_does_not_replace_the_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), sealed_folder(tmp_path / "a", "thing") as folder:
        (folder / "file.txt").write_text("late")
        _seal(tmp_path / "b", content="early")
        (tmp_path / "b").rename(tmp_path / "a")
    assert (tmp_path / "a" / "file.txt").read_text() == "early"


def test_a_place_where_no_folder_can_be_made_is_said() -> None:
    with (
        pytest.raises(SetupError, match="a folder cannot be made here"),
        sealed_folder(Path("/proc/x"), "thing"),
    ):
        pass
    with pytest.raises(SetupError, match="a folder cannot be made here"):
        write_atomic(Path("/proc/x/file"), "text")


def test_large_files_are_read_unless_the_caller_cannot_afford_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LARGE_FILE", 3)
    _seal(tmp_path / "a")
    (tmp_path / "a" / "file.txt").write_text("hullo")
    with pytest.raises(DataError, match="has changed"):
        open_sealed(tmp_path / "a", "thing")
    open_sealed(tmp_path / "a", "thing", verify_large=False)


def test_a_json_file_that_cannot_be_read_is_said_without_pythons_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_a_killed_writer_leaves_nothing_that_opens(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom kdx.core.folders import sealed_folder\n"
        "with sealed_folder(Path(sys.argv[1]), 'thing') as folder:\n"
        "    (folder / 'file.txt').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    for left in tmp_path.iterdir():
        with pytest.raises(DataError):
            open_sealed(left, "thing")


def test_an_atomic_write_replaces_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "file", "one")
    write_atomic(tmp_path / "deep" / "file", b"two")
    assert (tmp_path / "deep" / "file").read_text() == "two"
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["file"]
