"""The digests of a set's shards, in the format of sha256sum: `sha256sum -c SHA256SUMS` in the folder compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdx.core.digests import file_digest
from kdx.core.errors import DataError
from kdx.core.folders import write_atomic
from kdx.core.progress import Progress, silent

from .set_folder import CHECKSUMS, shard_files


@dataclass(frozen=True)
class Verified:
    """Names of files: same, changed, missing (named in SHA256SUMS but not there), unnamed (a shard, the reverse)."""

    same: list[str]
    changed: list[str]
    missing: list[str]
    unnamed: list[str]

    @property
    def whole(self) -> bool:
        return not (self.changed or self.missing or self.unnamed)


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """digests: sha256 (hex) by the name of a file in `folder`."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    write_atomic(folder / CHECKSUMS, "".join(lines))


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
    """Reads every file that SHA256SUMS names. Raises DataError where there is nothing to compare with."""
    digests = read_checksums(folder)
    result = Verified([], [], [], [])
    for number, (name, digest) in enumerate(digests.items(), 1):
        try:
            same = file_digest(folder / name) == digest
            (result.same if same else result.changed).append(name)
        except FileNotFoundError:
            result.missing.append(name)
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=folder / name, remedy="check the file"
            ) from None
        progress(number, len(digests), name)
    result.unnamed.extend(path.name for path in shard_files(folder) if path.name not in digests)
    return result
