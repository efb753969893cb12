"""Shards from elsewhere on this machine's disk: a folder of bounded size that all processes of a machine share.

    NAME.tar    a whole shard; whoever reads it holds a shared lock on it, so that it is not removed meanwhile
    NAME.part   one that is being fetched, by the process that has locked it; it has its size from the start, to count
    lock        for the moment in which room is made

NAME is made of the URL and the version, so a shard that changed is another one. What was not used for a while goes to
make room, the longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from kdx.core.cache import alone, cache_folder
from kdx.core.claims import TAKEN_ERRORS
from kdx.core.errors import SetupError, UsageError
from kdx.core.urls import shown
from kdx.core.workspace import full_disk_said

from .files import RemoteFile, check_unchanged, read_pieces

FOLDER_VARIABLE, SIZE_VARIABLE = "KDX_SHARD_CACHE", "KDX_SHARD_CACHE_SIZE"
DEFAULT_SIZE = "32GiB"
RECENT = 600.0  # seconds for which a shard stays that was used: else two sets would push each other out at every image
POLL = 0.1  # seconds between looks at what another process fetches
LEFT_FREE = 2**30  # bytes of the disk
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40
}  # fmt: skip


class NoRoom(Exception):
    """What lies in the cache is in use, and the bound is reached."""


@dataclass(frozen=True)
class ShardCache:
    """bound: bytes."""

    folder: Path
    bound: int

    @classmethod
    def of_machine(cls) -> ShardCache:
        """As the environment says. Raises UsageError for a size that is none."""
        folder = os.environ.get(FOLDER_VARIABLE)
        bound = _in_bytes(os.environ.get(SIZE_VARIABLE) or DEFAULT_SIZE)
        return cls(Path(folder).absolute() if folder else cache_folder() / "shards", bound)

    def path(self, file: RemoteFile) -> Path:
        identity = f"{shown(file.url)}\n{file.size}\n{file.version}"
        return self.folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tar"

    def open(self, file: RemoteFile) -> int:
        """A descriptor of the whole shard, which stays while that is open; fetched if it is not there.

        Raises NoRoom, DataError if it has changed since it was looked at, SetupError where it cannot be read or
        written.
        """
        path = self.path(file)
        while (descriptor := _opened(path, file.size)) is None:
            self._fetch(file, path)
        return descriptor

    @contextlib.contextmanager
    def fetched(self, file: RemoteFile) -> Generator[Path]:
        """The shard for the block alone, whatever room there is."""
        self._make_folder()
        with full_disk_said(self.folder), contextlib.ExitStack() as held:
            with alone(self.folder / "lock"):  # nobody takes it for a dead one meanwhile
                number, name = tempfile.mkstemp(suffix=".part", dir=self.folder)
                held.callback(os.close, number)
                held.callback(Path(name).unlink, missing_ok=True)
                _lock(number, fcntl.LOCK_EX)
            _write(file, number)
            yield Path(name)

    def take(self, path: Path, file: RemoteFile) -> None:
        """Moves a file of this machine that has the bytes of `file` into the cache, where there is room for it."""
        self._make_folder()
        with contextlib.suppress(NoRoom, OSError), self._room(file.size, path):  # another disk
            path.rename(self.path(file))

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        """Fetches it, or waits a little for the process that does."""
        self._make_folder()
        part = path.with_suffix(".part")
        with full_disk_said(part), os.fdopen(_open(part, os.O_RDWR | os.O_CREAT), "rb+") as unnamed:
            number = unnamed.fileno()
            if not _lock(number, fcntl.LOCK_EX):
                time.sleep(POLL)
                return
            if not _is_at(number, part):
                return
            try:
                if path.exists():
                    return
                with self._room(file.size, part):
                    os.truncate(number, file.size)  # counts from here on
                _write(file, number)
                part.rename(path)
            finally:
                if _is_at(number, part):
                    part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _room(self, size: int, own: Path) -> Generator[None]:
        """For the block there is room for `size` bytes, besides what lies at `own`. Raises NoRoom."""
        with alone(self.folder / "lock"):
            there = [
                (state.st_atime, state.st_size, path) for path, state in _entries(self.folder) if path != own
            ]
            used = sum(entry for _, entry, _ in there) + size
            lacking = max(used - self.bound, size + LEFT_FREE - shutil.disk_usage(self.folder).free)
            for last_used, entry, path in sorted(there):
                is_dead = path.suffix == ".part"
                if (is_dead or (lacking > 0 and time.time() - last_used > RECENT)) and _remove(path):
                    lacking -= entry
            if lacking > 0:
                raise NoRoom
            yield

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.folder, error) from None


def _in_bytes(text: str) -> int:
    """Of "200GB", "32GiB", "1000000"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)", text.strip().upper())
    if found is None or found[2] not in UNITS:
        raise UsageError(f"{SIZE_VARIABLE}={text} is no size", remedy="such as 200GB")
    return int(float(found[1]) * UNITS[found[2]])


def _open(path: Path, flags: int) -> int:
    """Raises FileNotFoundError, and SetupError for everything else."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path.parent, error) from None


def _unusable(folder: Path, error: OSError) -> SetupError:
    return SetupError(
        f"cannot be used: {error.strerror}",
        where=folder,
        remedy=f"name another folder for shards from elsewhere: {FOLDER_VARIABLE}",
    )


def _opened(path: Path, size: int) -> int | None:
    """None where there is none, or what is left of one."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for the moment in which another process removes it
    state = os.fstat(descriptor)
    if state.st_size == size and state.st_nlink:
        with contextlib.suppress(OSError):
            os.utime(descriptor, ns=(time.time_ns(), state.st_mtime_ns))  # a copy is known by the second
        return descriptor
    os.close(descriptor)
    if state.st_nlink:
        _remove(path)
    return None


def _write(file: RemoteFile, descriptor: int) -> None:
    for piece in read_pieces(file):
        while piece:
            piece = piece[os.write(descriptor, piece) :]
    check_unchanged(file)
    os.fsync(descriptor)


def _entries(folder: Path) -> Generator[tuple[Path, os.stat_result]]:
    for entry in os.scandir(folder):
        if entry.name.endswith((".tar", ".part")):
            with contextlib.suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat()


def _remove(path: Path) -> bool:
    """Unless somebody uses it."""
    try:
        descriptor = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor, fcntl.LOCK_EX):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether nobody else has it. A file system without locks has nobody."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN_ERRORS
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether this open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
