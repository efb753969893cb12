"""Where the files of a tar lie: its headers are walked once, then bytes are read by offset."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kdx.core.errors import DataError

BLOCK = 512
PADDING = 2**20  # bytes that are looked at in one go, a multiple of BLOCK
OPEN_FILES = 256  # descriptors kept open over all shard sets of a process
DAMAGED = "copy or make the shard again, or remove it"


@dataclass(frozen=True, slots=True)
class Member:
    """What a tar says of one of its members that is no folder.

    name: its path, without "./" before it; bytes that are not UTF-8 as \\xNN. offset, size: bytes. special: "link" or
    the like for what is no plain file, which has no bytes of its own.
    """

    name: str
    offset: int
    size: int
    special: str | None


@dataclass(frozen=True)
class TarFile:
    """A tar as it was when it was indexed. Reading is safe from any number of threads and after a fork."""

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> TarFile:
        """Raises DataError if there is no such file."""
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=path, remedy="check the file"
            ) from None
        return cls(path.absolute(), status.st_size, status.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        """Raises DataError if the file has changed since it was indexed, or is gone and no longer open."""
        try:
            descriptor = _open(self)
            content = os.pread(descriptor.number, size, offset)
            status = os.fstat(descriptor.number)  # afterwards: a change while it was read counts too
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=self.path, remedy=DAMAGED) from None
        if len(content) != size or (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise _changed(self)
        return content


def walk_tar(tar: TarFile) -> Iterator[Member]:
    """The members of a tar in their order, and those of further tars that were appended to it (`cat a.tar >> b.tar`).

    Raises DataError if the file is no tar, ends before the tar does, or goes on with something else after its end.
    """
    start: int | None = 0
    try:
        with tar.path.open("rb") as file:
            while start is not None:
                file.seek(start)
                end = start
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for header in archive:
                        end = archive.offset
                        if not header.isdir():
                            yield _member(header)
                # tarfile takes a damaged header, or the end of the file, for the end of the archive
                if end + BLOCK > tar.size or any(tar.read(end, BLOCK)):
                    raise DataError(f"is truncated or damaged at byte {end}", where=tar.path, remedy=DAMAGED)
                start = _appended(file, end + BLOCK)
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise DataError(f"is not a whole tar file: {error}", where=tar.path, remedy=DAMAGED) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=tar.path, remedy=DAMAGED) from None


def _member(header: tarfile.TarInfo) -> Member:
    if header.issym() or header.islnk():
        special = "link"
    elif header.issparse():
        special = "sparse file"
    else:
        special = None if header.isreg() else "device"
    name = header.name.removeprefix("./").encode("utf-8", "surrogateescape")
    return Member(name.decode("utf-8", "backslashreplace"), header.offset_data, header.size, special)


def _appended(file: BinaryIO, offset: int) -> int | None:
    """Where the next block that is not zero begins, at `offset` or behind it: tars are padded with zeros."""
    file.seek(offset)
    while chunk := file.read(PADDING):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return offset + zeros // BLOCK * BLOCK
        offset += len(chunk)
    return None


class _Descriptor:
    """Closed when nobody holds it, so that one thread may push it out of the cache while another one reads."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@functools.lru_cache(maxsize=OPEN_FILES)
def _open(tar: TarFile) -> _Descriptor:
    return _Descriptor(tar.path)


def _changed(tar: TarFile) -> DataError:
    return DataError(
        "has changed since it was opened", where=tar.path, remedy="run again, and leave the shards alone"
    )
