"""The indices of shards: opened where they are there and current, and built where not.

An index lies beside its shard, or in the folder that KDX_INDEX_DIR names, or, where nothing can be written beside the
shard, as beside one at a URL, in kdx's cache folder. It counts for the shard of its name with its size and time of
modification (at a URL: what tells its version); another one, and a damaged one, is made anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import resource
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdx.core.bound_pool import bound_pool
from kdx.core.cache import cache_folder
from kdx.core.errors import DataError, SetupError
from kdx.core.progress import Progress, Stages, silent_stages
from kdx.core.provenance import cpu_count
from kdx.core.urls import file_name, shown, url_of

from ..places import INDEX_SUFFIX, index_beside
from ..remote.tars import tars_at
from ..tar_index import TarFile
from .building import FOLDER_VARIABLE, OTHER_INDEX_FOLDER, build_index
from .shard_index import ShardFacts, ShardIndex, read_shard_index
from .table import DamagedTable

WORTH_PROCESSES = 2**29  # bytes of shards: with fewer, starting processes takes longer than they save


@dataclass(frozen=True)
class IndexedShard:
    """place: the file with the index. key_digests: uint64 [n], read from it, since every opening compares them."""

    tar: TarFile
    place: Path
    facts: ShardFacts
    key_digests: npt.NDArray[np.uint64]

    def columns(self) -> ShardIndex:
        """Not kept open: a set may have more shards than a process may open files."""
        return mapped_index(self.place, self.facts.digest)


def open_indexes(
    shards: Sequence[Path], *, folder: Path | None = None, stages: Stages = silent_stages
) -> list[IndexedShard]:
    """The indices of shards, in their order; reads headers alone where they are current.

    folder: where what has to be built is written; where it can be if not given. stages: shows "indexing", if there is
    something to build. Raises DataError for a bad tar, SetupError where nothing can be written.
    """
    tars = tars_at(shards)
    opened = [_find(tar, shard, folder) for tar, shard in zip(tars, shards, strict=True)]
    missing = [number for number, found in enumerate(opened) if found is None]
    if missing:
        with stages("indexing") as progress:
            _build([(tars[number], shards[number]) for number in missing], folder, progress)
        mapped_index.cache_clear()  # what is mapped may be a file that somebody wrote over
        tars = tars_at(shards)
        for number in missing:
            opened[number] = _find(tars[number], shards[number], folder)
    return [_there(shard, found) for shard, found in zip(shards, opened, strict=True)]


def find_index(shard: Path, folder: Path | None = None) -> IndexedShard | None:
    """The current index of a shard; None where there is none. Raises DataError if there is no such shard."""
    return _find(tars_at([shard])[0], shard, folder)


def _find(tar: TarFile, shard: Path, folder: Path | None) -> IndexedShard | None:
    name = file_name(shard)
    for place in _places(shard, folder):
        try:
            index = read_shard_index(place)
        except (FileNotFoundError, NotADirectoryError, PermissionError, DamagedTable):
            continue
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=place, remedy="check the file"
            ) from None
        facts = index.facts
        if (facts.name, facts.size, facts.modified_ns) == (name, tar.size, tar.modified_ns):
            return IndexedShard(tar, place, facts, index.key_digest.copy())
    return None


def _open_files() -> int:
    """How many indices stay open; each holds a descriptor. Half of what the system allows is for others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**14 if soft == resource.RLIM_INFINITY else max(16, min(2**14, soft // 2))


@functools.lru_cache(maxsize=_open_files())
def mapped_index(place: Path, digest: str) -> ShardIndex:
    """The index at `place` of the shard with this digest. Raises DataError if it is no longer there.

    Another process may have made the same one again.
    """
    try:
        index = read_shard_index(place)
    except (OSError, DamagedTable) as error:
        raise DataError(f"cannot be read: {error}", where=place, remedy="run again") from None
    if index.facts.digest != digest:
        raise DataError("is the index of another shard now", where=place, remedy="run again")
    return index


def _places(shard: Path, folder: Path | None) -> list[Path]:
    """Where an index may lie. The first one is where it would be written."""
    chosen = folder or os.environ.get(FOLDER_VARIABLE)
    if url_of(shard) is not None:
        return [_elsewhere(shard, Path(chosen) if chosen else cache_folder() / "indices")]
    if not chosen and os.access(shard.absolute().parent, os.W_OK):
        return [index_beside(shard)]
    return [_elsewhere(shard, Path(chosen) if chosen else cache_folder() / "indices"), index_beside(shard)]


def _elsewhere(shard: Path, folder: Path) -> Path:
    """One folder serves for many sets, whose shards have the same names."""
    own = shard.absolute().parent if url_of(shard) is None else Path(shown(shard.parent))
    digest = hashlib.sha256(os.fsencode(own)).hexdigest()
    name = Path(file_name(shard)).stem
    return folder / f"{own.name}-{digest[:12]}" / f"{name}{INDEX_SUFFIX}"


def _build(shards: Sequence[tuple[TarFile, Path]], folder: Path | None, progress: Progress) -> None:
    work = [(tar, _places(shard, folder)[0]) for tar, shard in shards]
    for parent in {place.parent for _, place in work}:
        _make_folder(parent)
    processes = min(cpu_count(), len(work))
    size = sum(tar.size for tar, _ in work)
    progress(0, len(work))
    if processes == 1 or size < WORTH_PROCESSES:
        for done, (tar, place) in enumerate(work, 1):
            build_index(tar, place)
            progress(done, len(work), file_name(tar.path))
        return
    with bound_pool(processes) as pool:
        building = {pool.submit(build_index, tar, place): tar for tar, place in work}
        for done, built in enumerate(as_completed(building), 1):
            built.result()
            progress(done, len(work), file_name(building[built].path))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot be made: {error.strerror}",
            where=folder,
            remedy=OTHER_INDEX_FOLDER,
        ) from None


def _there(shard: Path, found: IndexedShard | None) -> IndexedShard:
    if found is None:
        raise DataError("changes while it is read", where=shard, remedy="run again when it is written")
    return found
