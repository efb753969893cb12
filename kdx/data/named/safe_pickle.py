"""Pickles that came with a data set, read without running anything that they name.

Unpickling calls what a pickle tells it to call. Here it may call nothing: of all names a pickle can mention, those with
which NumPy stores an array are answered by records that keep what they are given, and any other is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError

TORCH_MAGIC, TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before 1.6, a pickle each
NOT_READ = "it is damaged, or not the file that was published; get it again"


def read_pickle(path: Path) -> Any:
    """Numbers, texts (of Python 2 as bytes), lists, dictionaries, and arrays as StoredArray. Raises DataError."""
    with _opened(path) as file:
        return _load(file, path)


def read_torch_save(path: Path) -> Any:
    """What torch.save wrote, in its zip format or the one before torch 1.6, without tensors. Raises DataError."""
    with _opened(path) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return _load_before_zip(file, path)
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                content = archive.read(names[0]) if len(names) == 1 else None
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"cannot be read: {error}", where=path, remedy=NOT_READ) from None
    if content is None:
        raise DataError("is a zip, but none that torch.save wrote", where=path, remedy=NOT_READ)
    return _load(io.BytesIO(content), path)


class StoredArray:
    """An array as NumPy pickles it: arguments of no use, then its state: version, shape, dtype, order, bytes."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def bytes_of(self, path: Path) -> npt.NDArray[np.uint8]:
        """As uint8, in rows. Raises DataError for another dtype or order, and where the shape does not fit."""
        match self._state:
            case (_, tuple(shape), StoredDtype(code="u1" | b"u1"), False | 0, bytes(content)) if all(
                isinstance(size, int) and size >= 0 for size in shape
            ) and math.prod(shape) == len(content):
                return np.frombuffer(content, dtype=np.uint8).reshape(shape)
        raise DataError("holds an array that is not of plain bytes", where=path, remedy=NOT_READ)


class StoredDtype:
    """A dtype as NumPy pickles it; its state says only how it is padded and ordered, which bytes are not."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


def _named_only(*_: Any) -> None:
    """Stands for a class that is only mentioned: `numpy.ndarray` as the kind of array to make."""


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): StoredArray,
    ("numpy._core.multiarray", "_reconstruct"): StoredArray,
    ("numpy", "ndarray"): _named_only,
    ("numpy", "dtype"): StoredDtype,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no such file needs and is not called")
        return _ADMITTED[module, name]


def _load(file: io.BufferedIOBase, path: Path) -> Any:
    try:
        return _Unpickler(file, encoding="bytes").load()
    except (
        Exception
    ) as error:  # of a damaged pickle nearly everything: EOFError, KeyError, IndexError, TypeError …
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot be read as a pickle: {reason}", where=path, remedy=NOT_READ) from None


def _load_before_zip(file: io.BufferedIOBase, path: Path) -> Any:
    if (_load(file, path), _load(file, path)) != (TORCH_MAGIC, TORCH_PROTOCOL):
        raise DataError("is not what torch.save wrote", where=path, remedy=NOT_READ)
    _load(file, path)  # sizes of the machine that wrote it
    return _load(file, path)


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the file") from None
