"""Facts of kdx/core/scratch.py: a folder goes with its block, and what a killed process left goes with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kdx.core.scratch import PREFIX, scratch_folder

ENDS_SUDDENLY = (
    "import os, signal\n"
    "from kdx.core.scratch import scratch_folder\n"
    "with scratch_folder() as folder:\n"
    "    (folder / 'file').touch()\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it found before
    return tmp_path


def test_a_folder_is_empty_and_goes_with_its_block(place: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder() as folder:
        assert list(folder.iterdir()) == [] and folder.is_relative_to(place)
        (folder / "file").touch()
        raise ZeroDivisionError
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(place: Path) -> None:
    with scratch_folder() as in_use:
        (in_use / "file").touch()
        killed = subprocess.run([sys.executable, "-c", ENDS_SUDDENLY], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(place.glob("*/files/file"))) == 2
        with scratch_folder():
            assert list(place.glob("*/files/file")) == [in_use / "file"]


def test_folders_that_are_not_of_a_killed_process_stay(place: Path) -> None:
    (place / "kdx-demo").mkdir()
    (place / "kdx-demo/lock").touch()
    (place / f"{PREFIX}being-made").mkdir()
    with scratch_folder():
        pass
    assert sorted(path.name for path in place.iterdir()) == ["kdx-demo", f"{PREFIX}being-made"]
