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
from kdx.core.folders import (
    MANIFEST,
    check_free,
    open_sealed,
    read_json,
    read_manifest,
    sealed_folder,
    write_atomic,
)


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


def test_whoever_may_read_the_folder_may_read_what_a_library_wrote_for_its_owner_alone(
    tmp_path: Path,
) -> None:
    with sealed_folder(tmp_path / "a", "thing") as folder:
        (folder / "file").touch(mode=0o600)
    assert (tmp_path / "a/file").stat().st_mode & 0o777 == (tmp_path / "a").stat().st_mode & 0o666


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda folder: (folder / "file.txt").write_text("hellO"), "file.txt"),
        (lambda folder: (folder / "file.txt").unlink(), "file.txt"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt"),
        (lambda folder: (folder / MANIFEST).unlink(), ""),
        (lambda folder: (folder / MANIFEST).write_text("{"), MANIFEST),
        (lambda folder: (folder / MANIFEST).write_text("[]"), MANIFEST),
        (lambda folder: _say(folder, digest=["file.txt"]), MANIFEST),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), MANIFEST),
    ],
)
def test_damage_is_named_and_refused(tmp_path: Path, damage, file: str) -> None:
    _seal(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(DataError) as error:
        open_sealed(tmp_path / "a", "thing")
    assert error.value.where == str(tmp_path / "a" / file) and error.value.remedy


def test_another_kind_or_schema_is_refused(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(DataError) as error:
        open_sealed(tmp_path / "a", "checkpoint")
    assert "thing" in error.value.what and "checkpoint" in error.value.what
    _say(tmp_path / "a", schema=99)
    with pytest.raises(DataError) as error:
        open_sealed(tmp_path / "a", "thing")
    assert "99" in error.value.what


def test_an_error_leaves_nothing_and_keeps_the_old_folder(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(RuntimeError), sealed_folder(tmp_path / "a", "thing", overwrite=True) as folder:
        (folder / "file.txt").write_text("half")
        raise RuntimeError
    assert open_sealed(tmp_path / "a", "thing")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_only_a_folder_of_the_same_kind_is_overwritten(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(UsageError) as error:
        _seal(tmp_path / "a")
    assert error.value.where == str(tmp_path / "a") and "--overwrite" in str(error.value.remedy)
    with pytest.raises(UsageError) as error:
        _seal(tmp_path / "a", kind="other", overwrite=True)
    assert "other" in error.value.what
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError):
        _seal(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    _seal(tmp_path / "a", overwrite=True, content="new")
    assert (tmp_path / "a" / "file.txt").read_text() == "new"


def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for path in ("file/a", "file/a/b"):
        with pytest.raises(UsageError) as usage:
            check_free(tmp_path / path, "thing")
        assert f"{tmp_path / 'file'} " in usage.value.what
    with pytest.raises(UsageError):
        check_free(Path("/"), "thing")
    with pytest.raises(UsageError, match="is a URL"):
        check_free(Path("s3://bucket/new"), "thing")
    with pytest.raises(UsageError):
        check_free(tmp_path / os.fsdecode(b"caf\xe9"), "thing")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(SetupError) as setup:
        check_free(tmp_path / "new" / "a", "thing")
    assert str(tmp_path) in setup.value.what


def test_what_is_no_folder_or_has_no_utf8_name_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    _seal(tmp_path / "a")
    (tmp_path / "a").rename(odd)
    for path, said in ((tmp_path / "file", MANIFEST), (odd, "UTF-8")):
        with pytest.raises(DataError) as caught:
            read_manifest(path)
        assert caught.value.where == str(path) and said in caught.value.what


def test_nothing_is_written_into_a_sealed_folder(tmp_path: Path) -> None:
    _seal(tmp_path / "a")
    with pytest.raises(UsageError) as error:
        _seal(tmp_path / "a" / "sub" / "b")
    assert f"thing {tmp_path / 'a'}" in error.value.what
    open_sealed(tmp_path / "a", "thing")


def test_a_place_behind_a_missing_folder_is_the_place_itself(tmp_path: Path) -> None:
    _seal(tmp_path / "a", content="kept")
    for kind in ("thing", "other"):
        with pytest.raises(UsageError) as error:
            _seal(tmp_path / "missing" / ".." / "a", kind=kind)
        assert error.value.where == str(tmp_path / "a")
    with pytest.raises(UsageError):
        _seal(tmp_path / "missing" / ".." / "a", kind="other", overwrite=True)
    assert (tmp_path / "a" / "file.txt").read_text() == "kept" and not (tmp_path / "missing").exists()


def test_the_second_of_two_writers_does_not_replace_the_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError), sealed_folder(tmp_path / "a", "thing") as folder:
        (folder / "file.txt").write_text("late")
        _seal(tmp_path / "b", content="early")
        (tmp_path / "b").rename(tmp_path / "a")
    assert (tmp_path / "a" / "file.txt").read_text() == "early"


def test_a_place_where_no_folder_can_be_made_is_said() -> None:
    with pytest.raises(SetupError) as error, sealed_folder(Path("/proc/x"), "thing"):
        pass
    assert error.value.where == "/proc/x"
    with pytest.raises(SetupError) as error:
        write_atomic(Path("/proc/x/file"), "text")
    assert error.value.where == "/proc/x/file"


def test_large_files_are_read_unless_the_caller_cannot_afford_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LARGE", 3)
    _seal(tmp_path / "a")
    (tmp_path / "a" / "file.txt").write_text("hullo")
    with pytest.raises(DataError) as error:
        open_sealed(tmp_path / "a", "thing")
    assert error.value.where == str(tmp_path / "a" / "file.txt")
    open_sealed(tmp_path / "a", "thing", verify_large=False)


def test_a_json_file_that_cannot_be_read_is_said_without_pythons_words(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path):
        with pytest.raises(DataError) as error:
            read_json(path)
        assert error.value.where == str(path) and "Errno" not in error.value.what


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


def test_an_atomic_write_over_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_atomic(tmp_path, "text")


@pytest.mark.parametrize("content", ["[1, 2]", "{}", '{"name": "a web app"}', '"text"', '{"digest": []}'])
def test_a_manifest_of_somebody_else_is_called_that(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert caught.value.where == str(tmp_path / MANIFEST) and "Manifest(" not in caught.value.what


def test_of_files_that_are_not_read_nothing_is_asked(tmp_path: Path) -> None:
    with sealed_folder(tmp_path / "a", "thing") as folder:
        for name in ("large", "small"):
            (folder / name).write_text(name)
    (tmp_path / "a/large").unlink()
    (tmp_path / "a/other").touch()
    assert open_sealed(tmp_path / "a", "thing", only=["small"]).digest.keys() == {"large", "small"}
    for name in ("large", "other", "nowhere"):
        with pytest.raises(DataError) as error:
            open_sealed(tmp_path / "a", "thing", only=[name])
        assert error.value.where == str(tmp_path / "a" / name)
    (tmp_path / "a/small").write_text("smaLl")
    with pytest.raises(DataError, match="changed"):
        open_sealed(tmp_path / "a", "thing", only=["small"])
