"""Pickles that came with a data set, read without running anything that they name.

Unpickling calls what a pickle tells it to call. Here it may call nothing: of all names a pickle can mention, those with
which NumPy stores an array are answered by records that keep what they are given, and any other is refused. Nor may it
make memory out of nothing: one number in a damaged pickle can have its reader allocate gigabytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError
from kdx.core.images import read_encoded

TORCH_MAGIC, TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before 1.6, a pickle each
NOT_READ = "it is damaged, or not the file that was published; get it again"


def read_pickle(path: Path) -> Any:
    """Numbers, texts (of Python 2 as bytes), lists, dictionaries, and arrays as StoredArray. Raises DataError."""
    return _load(_content(path), path)


def read_torch_save(path: Path) -> Any:
    """What torch.save wrote, in its zip format or the one before torch 1.6, without tensors. Raises DataError."""
    file = _content(path)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return _load_before_zip(file, path)
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith("/data.pkl")]
            # torch.save stores without compression, so a member is no larger than the file
            stored = len(members) == 1 and members[0].compress_type == zipfile.ZIP_STORED
            content = archive.read(members[0]) if stored else None
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


# plain data, and what an array is made of
_NAMES = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET POP POP_MARK GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_OPCODES = frozenset(_NAMES.split())
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


def _load(file: io.BytesIO, path: Path) -> Any:
    """The next pickle in the file."""
    try:
        start = file.tell()
        _check_opcodes(file)
        file.seek(start)
        return _Unpickler(file, encoding="bytes").load()
    except (
        Exception
    ) as error:  # of a damaged pickle nearly everything: EOFError, KeyError, IndexError, TypeError …
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot be read as a pickle: {reason}", where=path, remedy=NOT_READ) from None


def _check_opcodes(file: io.BytesIO) -> None:
    """Raises ValueError or UnpicklingError."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"uses {opcode.name}, which no such file needs")
        # a table as long as the highest number is made
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > number:
            raise pickle.UnpicklingError(f"remembers {argument:,} things after {number:,} steps")


def _load_before_zip(file: io.BytesIO, path: Path) -> Any:
    if (_load(file, path), _load(file, path)) != (TORCH_MAGIC, TORCH_PROTOCOL):
        raise DataError("is not what torch.save wrote", where=path, remedy=NOT_READ)
    _load(file, path)  # sizes of the machine that wrote it
    return _load(file, path)


def _content(path: Path) -> io.BytesIO:
    return io.BytesIO(read_encoded(path))
