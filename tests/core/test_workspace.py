"""Facts of kdx/core/workspace.py: writers never meet, a full disk is said, and what a killed one left is named."""

import errno
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdx.core.errors import SetupError, UsageError
from kdx.core.folders import check_space, open_sealed, sealed_folder, write_atomic
from kdx.core.workspace import move_all, workspace
from kdx.data.set_folder import building_set
from kdx.data.shards import Sample, open_split, write_shards

JPEG = b"\xff\xd8\xff, a file that is never decoded"


def _seal(path: Path, content: str, *, overwrite: bool = False) -> None:
    with sealed_folder(path, "thing", overwrite=overwrite) as folder:
        (folder / "file.txt").write_text(content)


def _content(path: Path) -> str:
    open_sealed(path, "thing")
    return (path / "file.txt").read_text()


@pytest.fixture
def refused_rename(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Targets put into this list cannot be renamed to, once."""
    targets: list[Path] = []
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if target in targets:
            targets.remove(target)
            raise OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    yield targets
    assert targets == []


# Several writers


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_writers_of_one_process_do_not_touch_each_others_work(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "a"
    with sealed_folder(path, "thing", overwrite=overwrite) as slow:
        (slow / "file.txt").write_text("slow")
        _seal(path, "fast", overwrite=overwrite)
        assert (slow / "file.txt").read_text() == "slow" and _content(path) == "fast"
        if not overwrite:
            path.rename(tmp_path / "away")
    assert _content(path) == "slow"
    assert {entry.name for entry in tmp_path.iterdir()} == ({"a"} if overwrite else {"a", "away"})


def test_of_many_writers_at_once_one_gets_the_place(tmp_path: Path) -> None:
    refused: list[str] = []
    started = threading.Barrier(8)

    def write(number: int) -> None:
        try:
            with sealed_folder(tmp_path / "a", "thing") as folder:
                (folder / "file.txt").write_text(str(number))
                started.wait()
        except UsageError as error:
            refused.append(str(error.where))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [str(tmp_path / "a")] * 7
    assert _content(tmp_path / "a") in set("01234567")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_the_second_writer_of_a_set_does_not_mix_its_files_with_the_firsts(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error, building_set(tmp_path / "set") as slow:
        (slow / "train-00001.tar").write_text("slow")
        with building_set(tmp_path / "set") as fast:
            (fast / "train-00000.tar").write_text("fast")
    assert error.value.where == str(tmp_path / "set")
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["train-00000.tar"]


def test_the_second_writer_of_shards_does_not_replace_the_firsts(tmp_path: Path) -> None:
    def slow() -> Iterator[Sample]:
        yield Sample("slow", JPEG, ("x",), None)
        write_shards(tmp_path, "train", [Sample("fast", JPEG, ("x",), None)])

    with pytest.raises(UsageError):
        write_shards(tmp_path, "train", slow())
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000.tar"]
    assert open_split(tmp_path, "train").keys == ["fast"]


# Errors at the end


def test_what_lay_there_is_back_when_the_new_one_cannot_be_moved_there(
    tmp_path: Path, refused_rename: list[Path]
) -> None:
    _seal(tmp_path / "a", "old")
    refused_rename.append(tmp_path / "a")
    with pytest.raises(OSError):
        _seal(tmp_path / "a", "new", overwrite=True)
    assert _content(tmp_path / "a") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_an_old_set_is_whole_again_when_one_file_of_the_new_cannot_be_moved_there(
    tmp_path: Path, refused_rename: list[Path]
) -> None:
    names = ("train-00000.tar", "train-00001.tar", "classes.txt")
    for name in names:
        (tmp_path / name).write_text("old")
    with pytest.raises(OSError), building_set(tmp_path, overwrite=True) as building:
        for name in names:
            (building / name).write_text("new")
        refused_rename.append(tmp_path / "train-00000.tar")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(names, "old")


def test_moves_are_made_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(FileNotFoundError):
        move_all([(tmp_path / "a", tmp_path / "b"), (tmp_path / "missing", tmp_path / "c")])
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


# A full disk

FULL_DISK = """
import resource, shutil, signal, sys
from pathlib import Path
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from kdx.core.errors import SetupError
from kdx.core.folders import sealed_folder, write_atomic
from kdx.data.shards import Sample, write_shards

out, how, big = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # the kernel then refuses as it does on a full disk
vocabulary = {f"w{n}": n for n in range(9999)}
fill = {
    "write": lambda folder: (folder / "x").write_bytes(bytes(2**17)),
    "safetensors": lambda folder: save_file({"x": np.zeros(2**15, np.float32)}, folder / "x"),
    "copytree": lambda folder: shutil.copytree(big, folder / "x"),
    "tokenizers": lambda folder: tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [])).save(str(folder / "x")),
}
try:
    if how == "atomic":
        write_atomic(out, bytes(2**17))
    elif how == "shards":
        write_shards(out, "train", [Sample("a", bytes([255, 216, 255]) + bytes(2**17), ("x",), None)])
    else:
        with sealed_folder(out, "run") as folder, sealed_folder(folder / "student", "thing") as inner:
            fill[how](inner)
except SetupError as error:
    print(error.where, error.remedy, sep="\\n")
"""


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("write", "out/student"),
        ("safetensors", "out/student"),
        ("copytree", "out/student"),
        ("tokenizers", "out/student"),
        ("atomic", "out"),
        ("shards", "out/train-shards"),
    ],
)
def test_a_full_disk_is_the_machines_fault_whichever_library_meets_it(
    tmp_path: Path, how: str, where: str
) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(bytes(2**17))
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "out"), how, str(tmp_path / "big")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.stdout.splitlines()[:1] == [str(tmp_path / where)], said.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "big"]


def test_another_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "none"), ConnectionError(), ValueError("Errno 28 years")):
        with pytest.raises(type(error)), sealed_folder(tmp_path / "a", "thing"):
            raise error


def test_space_is_asked_for_before_the_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(SetupError) as error:
        check_space(tmp_path / "not" / "yet", 2 * free + 2**40)
    assert error.value.where == str(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()


# What a killed writer left

KILLED = """
import os, signal, sys
from pathlib import Path
from kdx.core.folders import sealed_folder
with sealed_folder(Path(sys.argv[1]), "thing") as folder:
    (folder / "file.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _kill_a_writer(path: Path) -> Path:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = path.parent.glob(f".{path.name}.building-*")
    return left


def test_what_a_killed_writer_left_is_named_by_the_next_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = _kill_a_writer(tmp_path / "a b")
    (tmp_path / "other.building-1234").mkdir()
    _seal(tmp_path / "a b", "new")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"rm -r {shlex.quote(str(left))}" in record.getMessage()
    assert (left / "new" / "file.txt").read_text() == "half"


def test_what_somebody_is_writing_is_not_called_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sealed_folder(tmp_path / "a", "thing") as folder:
        (folder / "file.txt").write_text("late")
        _seal(tmp_path / "b", "other")
        with workspace(tmp_path / "a"):
            pass
    assert caplog.records == []


def test_what_cannot_be_told_is_not_called_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".a.building-01234567").mkdir()  # a writer that has not locked it yet, or cannot
    _seal(tmp_path / "a", "new")
    assert caplog.records == []


def test_how_to_have_back_what_a_killed_writer_moved_aside_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = _kill_a_writer(tmp_path / "a")
    _seal(tmp_path / "b", "old")
    (tmp_path / "b").rename(left / "old")  # killed between the two renames
    write_atomic(tmp_path / "c", "any")
    assert caplog.records == []
    _seal(tmp_path / "a", "new")
    first, second = (record.getMessage() for record in caplog.records)
    assert f"mv {left / 'old'} {tmp_path / 'a'}" in first and str(left) in second
