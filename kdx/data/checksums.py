"""The digests of a set's shards, in the format of sha256sum: `sha256sum -c SHA256SUMS` in the folder compares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.progress import Progress, silent
from kdx.core.urls import shown

from .index.opening import IndexedShard, find_index
from .index.shard_index import is_undamaged
from .index.table import DamagedTable
from .places import splits_there
from .remote.files import digest_of
from .set_folder import CHECKSUMS


@dataclass(frozen=True)
class Verified:
    """Names of files: same, changed, missing (named in SHA256SUMS but not there), unnamed (a shard, the reverse),
    damaged (the index of a shard)."""

    same: list[str]
    changed: list[str]
    missing: list[str]
    unnamed: list[str]
    damaged: list[str]

    @property
    def whole(self) -> bool:
        return not (self.changed or self.missing or self.unnamed or self.damaged)


def read_checksums(folder: Path) -> dict[str, str]:
    """sha256 by file name. Raises DataError where there is no list or it is not one."""
    path = folder / CHECKSUMS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"there is no {CHECKSUMS} to compare with" if folder.is_dir() else "there is no such folder",
            where=folder,
            remedy=f"kdx data convert writes one; for other shards: sha256sum *.tar > {CHECKSUMS}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"cannot be read: {reason}", where=path, remedy="check the path") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        digest, mark, name = line[:64], line[64:66], line[66:]
        if mark not in ("  ", " *") or not name or not set(digest) <= set("0123456789abcdef"):
            raise DataError(f"line {number} is no digest with a name", where=path, remedy="get it again")
        digests[name] = digest
    return digests


def verify_set(folder: Path, *, progress: Progress = silent) -> Verified:
    """Reads every file that SHA256SUMS names, and every shard that has an index, with its index.

    Raises DataError where there is nothing to compare with.
    """
    shards = {_name(path, folder): path for paths in splits_there(folder).values() for path in paths}
    indices = {name: index for name, path in shards.items() if (index := find_index(path)) is not None}
    listed = read_checksums(folder) if (folder / CHECKSUMS).exists() or not indices else None
    expected = {name: {index.facts.digest} for name, index in indices.items()}
    for name, digest in (listed or {}).items():
        expected.setdefault(name, set()).add(digest)
    result = Verified([], [], [], [], [])
    for number, (name, digests) in enumerate(sorted(expected.items()), 1):
        try:
            found = digest_of(shards.get(name, folder / name))
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=folder / name, remedy="check the file"
            ) from None
        if found is None:
            result.missing.append(name)
        else:
            (result.same if {found} == digests else result.changed).append(name)
        if name in indices and not _is_undamaged(indices[name]):
            result.damaged.append(indices[name].place.name)
        progress(number, len(expected), name)
    named = expected if listed is None else listed
    result.unnamed.extend(name for name in shards if name not in named)
    return result


def _is_undamaged(indexed: IndexedShard) -> bool:
    try:
        return is_undamaged(indexed.place)
    except (OSError, DamagedTable):
        return False


def _name(shard: Path, folder: Path) -> str:
    return shard.relative_to(folder).as_posix() if shard.is_relative_to(folder) else shown(shard)
