"""Folders for what a command needs only while it runs, where temporary files lie (TMPDIR).

What a killed process left there the next one removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from .workspace import is_abandoned, kept_locked

PREFIX = "kdx-scratch-"


@contextlib.contextmanager
def scratch_folder() -> Generator[Path]:
    """Yields an empty folder, which goes with all that is in it when the block ends."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with kept_locked(folder):
            inside = folder / "files"
            inside.mkdir()
            yield inside
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Of this user's, what no living process has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process removes it too
            if folder.lstat().st_uid == os.getuid() and is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
