"""A shard while it is written: a plain tar in the ustar format, whose bytes depend on its members alone."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from kdx.core.errors import DataError

from .tar_index import BLOCK

NAME = 100  # bytes of a name that fit its field; longer ones are split at a slash
PIECE = 2**20  # bytes that are digested and written in one go
# owner 0, time 0: equal samples give equal bytes. What differs from member to member are the name, size and checksum
HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
BEFORE_SIZE, BEFORE_CHECKSUM, BEHIND = HEADER[NAME:124], HEADER[136:148], HEADER[156:]
SUM = (
    sum(HEADER) - sum(HEADER[124:136]) - sum(HEADER[148:156]) + 8 * ord(" ")
)  # its own field counts as spaces
ZEROS = bytes(BLOCK)


class TarWriter:
    """Writes members one after the other; `digest` is the sha256 of the file once it is closed.

    The bytes are those that tarfile writes in this format, in a tenth of the time: a set of small photos spends most
    of its packing on headers.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._parts: list[bytes] = []  # that are not written yet
        self._waiting = 0  # their bytes

    def add(self, name: str, content: bytes) -> None:
        """Raises DataError for a name that does not fit a header."""
        encoded, size = name.encode(), len(content)
        digits, padding = b"%011o\0" % size, -size % BLOCK
        if len(encoded) <= NAME:
            checksum = b"%06o\0 " % (SUM + sum(encoded) + sum(digits))
            name_end = ZEROS[: NAME - len(encoded)]
            self._parts += encoded, name_end, BEFORE_SIZE, digits, BEFORE_CHECKSUM, checksum, BEHIND
        else:
            self._parts.append(_header_with_prefix(name, size))
        self._parts += content, ZEROS[:padding]
        self._waiting += BLOCK + size + padding
        if self._waiting >= PIECE:
            self._write()

    def close(self) -> None:
        """The end of the archive, and all of it on the disk."""
        size = self.size + self._waiting + 2 * BLOCK
        self._parts.append(bytes(2 * BLOCK + -size % tarfile.RECORDSIZE))
        self._write()
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def _write(self) -> None:
        content = b"".join(self._parts)
        self._parts.clear()
        self._waiting = 0
        self._digest.update(content)
        self.size += len(content)
        rest = memoryview(content)
        while rest:  # unbuffered, a file may take a part
            rest = rest[self._file.write(rest) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


def _header_with_prefix(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size
    try:
        return header.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise DataError(f"does not fit a tar header: {error}", where=name, remedy="shorten the key") from None
