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
# owner 0, time 0: equal samples give equal bytes. What differs from member to member is filled in below
HEADER = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
SIZE, CHECKSUM = slice(124, 136), slice(148, 156)
HEADER[CHECKSUM] = b" " * 8
SUM = sum(HEADER) - sum(HEADER[SIZE])


class TarWriter:
    """Writes members one after the other; `digest` is the sha256 of the file once it is closed.

    The bytes are those that tarfile writes in this format, in a fifth of the time: a set of small photos spends most
    of its packing on headers.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def add(self, name: str, content: bytes) -> None:
        """Raises DataError for a name that does not fit a header."""
        self._write(b"".join((_header(name, len(content)), content, bytes(-len(content) % BLOCK))))

    def close(self) -> None:
        """The end of the archive, and all of it on the disk."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


def _header(name: str, size: int) -> bytes:
    encoded = name.encode()
    if len(encoded) > NAME:
        return _header_with_prefix(name, size)
    digits = b"%011o\0" % size
    header = bytearray(HEADER)
    header[: len(encoded)] = encoded
    header[SIZE] = digits
    header[CHECKSUM] = b"%06o\0 " % (SUM + sum(encoded) + sum(digits))
    return bytes(header)


def _header_with_prefix(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size
    try:
        return header.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise DataError(f"does not fit a tar header: {error}", where=name, remedy="shorten the key") from None
