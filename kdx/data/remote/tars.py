"""Tars wherever they lie, as they are read: from the disk, from the cache of shards, or part by part from elsewhere."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from kdx.core.progress import Progress, silent
from kdx.core.urls import file_name, url_of

from ..tar_index import OPEN_FILES, Descriptor, TarFile
from .files import RemoteFile, look_at, read_part
from .shard_cache import NoRoom, ShardCache

ASKED_AT_ONCE = 16
ROOM_SOUGHT = 60.0  # seconds between looks whether there is room, where there was none


@dataclass(frozen=True)
class RemoteTar(TarFile):
    """kept: whether it is fetched into the cache as a whole when something of it is read.

    modified_ns is a number for its version.
    """

    file: RemoteFile
    kept: bool

    def read(self, offset: int, size: int) -> bytes:
        """Raises DataError if the file has changed, where that shows, SetupError where it cannot be read."""
        if self.kept and (descriptor := _descriptor(self)) is not None:
            return os.pread(descriptor.number, size, offset)
        return read_part(self.file, offset, offset + size)

    @contextlib.contextmanager
    def on_disk(self) -> Generator[TarFile]:
        cache = ShardCache.of_machine()
        if self.kept and (descriptor := _descriptor(self)) is not None:
            yield LocalCopy.of(self, cache.path(self.file))
            del descriptor  # which kept the file there
        else:
            with cache.fetched(self.file) as path:
                yield LocalCopy.of(self, path)


@dataclass(frozen=True)
class LocalCopy(TarFile):
    """original: whose copy it is."""

    original: Path

    @classmethod
    def of(cls, tar: RemoteTar, path: Path) -> LocalCopy:
        here = TarFile.at(path)
        return cls(here.path, here.size, here.modified_ns, tar.path)

    @property
    def where(self) -> Path:
        return self.original


def tars_at(shards: Sequence[Path]) -> list[TarFile]:
    """What lies there now. A set from elsewhere is kept in the cache of shards if the whole of it fits there.

    Raises DataError if a shard is not there, SetupError where it cannot be asked.
    """
    urls = [url for shard in shards if (url := url_of(shard)) is not None]
    if not urls:
        return [TarFile.at(shard) for shard in shards]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        files = dict(zip(urls, pool.map(look_at, urls), strict=True))
    kept = sum(file.size for file in files.values()) <= ShardCache.of_machine().bound
    return [_tar(shard, files, kept) for shard in shards]


def is_kept(tar: TarFile) -> TypeGuard[RemoteTar]:
    return isinstance(tar, RemoteTar) and tar.kept


def fetch(tars: Sequence[TarFile], progress: Progress = silent) -> None:
    """Fetches into the cache what is missing of a set that is kept there, as far as there is room."""
    for number, tar in enumerate(tars, 1):
        if is_kept(tar):
            _descriptor(tar)
        progress(number, len(tars), file_name(tar.path))


def read_all(parts: Sequence[tuple[TarFile, int, int]]) -> Iterator[bytes]:
    """The bytes at offset and size of each, in order; several requests at a time, where these are requests."""
    if any(isinstance(tar, RemoteTar) and not tar.kept for tar, _, _ in parts):
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            yield from pool.map(lambda part: part[0].read(*part[1:]), parts)
        return
    for tar, offset, size in parts:
        yield tar.read(offset, size)


def _tar(shard: Path, files: dict[str, RemoteFile], kept: bool) -> TarFile:
    if (url := url_of(shard)) is None:
        return TarFile.at(shard)
    file = files[url]
    return RemoteTar(shard, file.size, file.stamp, file, kept)


_no_room_until = 0.0


def _descriptor(tar: RemoteTar) -> Descriptor | None:
    """None where the cache has no room for it."""
    global _no_room_until
    if time.monotonic() < _no_room_until:
        return None
    try:
        return _open(tar)
    except NoRoom:
        _no_room_until = time.monotonic() + ROOM_SOUGHT
        return None


@functools.lru_cache(maxsize=OPEN_FILES)
def _open(tar: RemoteTar) -> Descriptor:
    return Descriptor(ShardCache.of_machine().open(tar.file))
