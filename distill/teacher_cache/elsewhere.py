"""A teacher cache whose place is a URL: made in a folder of this machine and copied there file by file, the manifest
last; read through the cache of shards, from which its files are mapped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdx.core.cache import alone, cache_folder
from kdx.core.digests import value_digest
from kdx.core.errors import SetupError
from kdx.core.folders import MANIFEST, Manifest, parse_manifest, read_manifest
from kdx.core.progress import Progress, silent
from kdx.core.urls import shown, url_of
from kdx.data.remote.files import RemoteFile, check_writable, look_at, read_text, upload
from kdx.data.remote.shard_cache import SIZE_VARIABLE, NoRoom, ShardCache

from .identity import no_cache
from .work import is_whole

AT_ONCE = 8  # files that are asked for


def is_stored(place: Path) -> bool:
    """Whether a whole cache lies at a folder or URL."""
    return is_whole(place) if url_of(place) is None else _manifest_text(place) is not None


def manifest_of(place: Path) -> Manifest:
    """Raises UsageError where none lies, DataError for a damaged one."""
    if url_of(place) is None:
        if not (place / MANIFEST).is_file():
            raise no_cache(place)
        return read_manifest(place)
    if (text := _manifest_text(place)) is None:
        raise no_cache(place)
    return parse_manifest(text.decode("utf-8", "replace"), place)


def made_in(place: Path) -> Path:
    """The place, or for a URL the folder of this machine in which caches for URLs are made."""
    return place if url_of(place) is None else cache_folder() / "teacher-caches"


def working_folder(place: Path, identity: str) -> Path:
    """Where the cache of this identity is made: its place, or for a URL a folder of this machine.

    Raises UsageError for a URL to which nothing can be written.
    """
    if (url := url_of(place)) is None:
        return place
    check_writable(url)
    return made_in(place) / f"{place.name}-{value_digest([shown(place), identity])[:12]}"


def store(folder: Path, place: Path, progress: Progress = silent) -> None:
    """Copies the whole cache at `folder` to a URL, if no process of this machine has done so, and removes it here."""
    with alone(folder.with_name(f"{folder.name}.storing")):
        if is_stored(place) or not is_whole(folder):
            return
        cache = ShardCache.of_machine()
        names = [*read_manifest(folder).digest, MANIFEST]
        for number, name in enumerate(names, 1):
            upload(folder / name, _file(place, name))
            progress(number, len(names), "copying the cache to its place")
        for name in names[:-1]:
            cache.take(folder / name, look_at(_file(place, name)))
        shutil.rmtree(folder, ignore_errors=True)


def files_at(place: Path, names: Sequence[str]) -> list[RemoteFile]:
    """Raises DataError if one is missing."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(look_at, [_file(place, name) for name in names]))


@contextlib.contextmanager
def fetched(place: Path, names: Sequence[str], progress: Progress = silent) -> Generator[list[Path]]:
    """The files on this machine's disk for the block; what was mapped in it stays as it is.

    Raises SetupError if the cache of shards is too small for them.
    """
    cache, files = ShardCache.of_machine(), files_at(place, names)
    size = sum(file.size for file in files)
    too_small = SetupError(
        f"has {size / 1e9:,.2f} GB, for which the cache of shards in {cache.folder} has no room",
        where=place,
        remedy=f"let that be larger: {SIZE_VARIABLE}, now {cache.bound / 1e9:,.2f} GB",
    )
    if size > cache.bound:
        raise too_small
    with contextlib.ExitStack() as held:
        for number, file in enumerate(files, 1):
            try:
                held.callback(os.close, cache.open(file))
            except NoRoom:
                raise too_small from None
            progress(number, len(files), "fetching the cache")
        yield [cache.path(file) for file in files]


def _file(place: Path, name: str) -> str:
    return f"{url_of(place)}/{name}"


def _manifest_text(place: Path) -> bytes | None:
    return read_text(_file(place, MANIFEST))
