"""Where the files of a tar lie: its headers are walked once, then bytes are read by offset."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError

BLOCK = 512
OPEN_FILES = 256  # descriptors kept open over all shard sets of a process
DAMAGED = "copy or make the shard again, or remove it"


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar, in WebDataset's terms: `a/b.left.jpg` has the key `a/b` and the extension `left.jpg`.

    offset, size: bytes.
    """

    key: str
    extension: str
    offset: int
    size: int


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
    """The plain files of a tar in their order; those without an extension are left out.

    Raises DataError if the file is no tar or ends before the tar does.
    """
    end = 0
    try:
        with tarfile.open(tar.path, "r:") as archive:
            for header in archive:
                end = archive.offset
                member = _member(header)
                if member is not None:
                    yield member
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise DataError(f"is not a whole tar file: {error}", where=tar.path, remedy=DAMAGED) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=tar.path, remedy=DAMAGED) from None
    # tarfile takes a damaged header, or the end of the file, for the end of the archive
    if end + BLOCK > tar.size or any(tar.read(end, BLOCK)):
        raise DataError(f"is truncated or damaged at byte {end}", where=tar.path, remedy=DAMAGED)


def _member(header: tarfile.TarInfo) -> Member | None:
    folder, slash, name = header.name.removeprefix("./").rpartition("/")
    stem, dot, extension = name.partition(".")
    if not stem or not dot or not header.isreg() or header.issparse():
        return None
    return Member(f"{folder}{slash}{stem}", extension.lower(), header.offset_data, header.size)


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
