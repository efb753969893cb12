"""Where the files of a tar lie: its headers are walked once, then bytes are read by offset."""

from __future__ import annotations

import contextlib
import functools
import os
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kdx.core.errors import DataError

BLOCK = 512
END = bytes(BLOCK)  # of an archive
# the fields of a header that are looked at, by POSIX (ustar)
NAME, SIZE, CHECKSUM, TYPE, PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), 156, slice(345, 500)
REGULAR, PAX = (ord("0"), 0), ord("x")
PAX_THAT_MATTERS = (b" path=", b" size=", b"GNU.sparse", b"hdrcharset")
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

    @property
    def where(self) -> Path:
        """What errors name."""
        return self.path

    @property
    def is_current(self) -> bool:
        """Raises DataError if it is gone."""
        now = TarFile.at(self.path)
        return (now.size, now.modified_ns) == (self.size, self.modified_ns)

    @contextlib.contextmanager
    def on_disk(self) -> Generator[TarFile]:
        """For the block a file of this machine with the same bytes."""
        yield self

    def read(self, offset: int, size: int) -> bytes:
        """Raises DataError if the file has changed since it was indexed, or is gone and no longer open."""
        try:
            descriptor = _open(self)
            content = os.pread(descriptor.number, size, offset)
            status = os.fstat(descriptor.number)  # afterwards: a change while it was read counts too
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=self.where, remedy=DAMAGED) from None
        if len(content) != size or (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise _changed(self)
        return content


def walk_tar(tar: TarFile) -> Iterator[Member]:
    """The members of a tar in their order, and those of further tars that were appended to it (`cat a.tar >> b.tar`).

    Raises DataError if the file is no tar, ends before the tar does, or goes on with something else after its end.
    """
    offset: int | None = 0
    try:
        with tar.path.open("rb") as file:
            while offset is not None:
                block = os.pread(file.fileno(), BLOCK, offset)
                if block == END:
                    offset = _appended(file, offset + BLOCK)
                elif (plain := _plain_member(file, block, offset)) is not None:
                    yield plain
                    offset = plain.offset + _in_blocks(plain.size)
                else:
                    header, after = _any_member(file, offset)
                    if header is None:
                        raise DataError(
                            f"is truncated or damaged at byte {offset}", where=tar.where, remedy=DAMAGED
                        )
                    if not header.isdir():
                        yield _member(header)
                    offset = after
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise DataError(f"is not a whole tar file: {error}", where=tar.where, remedy=DAMAGED) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=tar.where, remedy=DAMAGED) from None


def _plain_member(file: BinaryIO, block: bytes, offset: int) -> Member | None:
    """The file whose header is `block`, if it is one that needs no more than a look: ten times as fast as tarfile.

    WebDataset puts a pax header with nothing but a time before each file.
    """
    if len(block) < BLOCK or not _has_checksum(block) or block[SIZE][0] & 0x80:
        return None
    if block[TYPE] == PAX:
        size = _number(block[SIZE])
        said = os.pread(file.fileno(), size, offset + BLOCK)
        if len(said) < size or any(word in said for word in PAX_THAT_MATTERS):
            return None
        after = offset + BLOCK + _in_blocks(size)
        block = os.pread(file.fileno(), BLOCK, after)
        return None if block[TYPE : TYPE + 1] == b"x" else _plain_member(file, block, after)
    if block[TYPE] not in REGULAR:
        return None
    name, prefix = (block[field].partition(b"\0")[0] for field in (NAME, PREFIX))
    name = prefix + b"/" + name if prefix else name
    if name.endswith(b"/"):
        return None
    return Member(_decoded(name), offset + BLOCK, _number(block[SIZE]), None)


def _any_member(file: BinaryIO, offset: int) -> tuple[tarfile.TarInfo | None, int]:
    """What tarfile reads at `offset`, None for what is no header, and where the next header is."""
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        return archive.next(), archive.offset


def _has_checksum(block: bytes) -> bool:
    try:
        return _number(block[CHECKSUM]) == sum(block) - sum(block[CHECKSUM]) + 8 * ord(" ")
    except ValueError:
        return False


def _number(field: bytes) -> int:
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _in_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _member(header: tarfile.TarInfo) -> Member:
    if header.issym() or header.islnk():
        special = "link"
    elif header.issparse():
        special = "sparse file"
    else:
        special = None if header.isreg() else "device"
    name = header.name.encode("utf-8", "surrogateescape")
    return Member(_decoded(name), header.offset_data, header.size, special)


def _decoded(name: bytes) -> str:
    return name.removeprefix(b"./").decode("utf-8", "backslashreplace")


def _appended(file: BinaryIO, offset: int) -> int | None:
    """Where the next block that is not zero begins, at `offset` or behind it: tars are padded with zeros."""
    file.seek(offset)
    while chunk := file.read(PADDING):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return offset + zeros // BLOCK * BLOCK
        offset += len(chunk)
    return None


class Descriptor:
    """Closed when nobody holds it, so that one thread may push it out of the cache while another one reads."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@functools.lru_cache(maxsize=OPEN_FILES)
def _open(tar: TarFile) -> Descriptor:
    return Descriptor(os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC))


def _changed(tar: TarFile) -> DataError:
    return DataError(
        "has changed since it was opened", where=tar.where, remedy="run again, and leave the shards alone"
    )
