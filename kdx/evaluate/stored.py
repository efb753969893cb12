"""Arrays in a file that is whole or does not count: what can be made again, kept in kdx's cache folder."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.cache import OTHER_FOLDER
from kdx.core.errors import SetupError

Arrays = dict[str, npt.NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays) -> None:
    """An .npz, whose checksums tell a damaged file. Raises SetupError where nothing can be written."""
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unnamed.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        unnamed.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unnamed.unlink()
        raise SetupError(f"cannot be written: {error.strerror}", where=path, remedy=OTHER_FOLDER) from None


def read_arrays(path: Path) -> Arrays | None:
    """None without the file, and for one that is damaged or was cut."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
