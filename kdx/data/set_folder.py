"""Writing a whole set at once: its files appear when all are whole, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdx.core.errors import UsageError
from kdx.core.folders import check_place, write_atomic
from kdx.core.workspace import locked, move_all, workspace

from .places import SPLITS, index_beside
from .set_texts import CLASSES, TEMPLATES

CHECKSUMS = "SHA256SUMS"
SKIPPED = "skipped.jsonl"  # what `kdx data convert` left out


@contextlib.contextmanager
def building_set(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder; its files move into `folder` when the block ends without an error, classes.txt last.

    On an error nothing is left, and an old set is untouched. Other files in `folder` stay. Raises UsageError if
    a set lies there and `overwrite` is not set.
    """
    check_set_free(folder, overwrite=overwrite)
    folder = folder.resolve()
    with workspace(folder) as new:
        new.mkdir()
        yield new
        folder.mkdir(exist_ok=True)
        old = new.with_name("old")
        old.mkdir()
        with locked(folder):
            check_set_free(folder, overwrite=overwrite)  # another process may have written there meanwhile
            move_all(
                [(file, old / file.name) for file in set_files(folder)]
                + [(file, folder / file.name) for file in reversed(set_files(new))]
            )


def check_set_free(folder: Path, *, overwrite: bool = False) -> None:
    """Raises UsageError if a set may not be written to `folder`, SetupError if it cannot be: call before long work."""
    check_place(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError("is not a folder", where=folder, remedy="choose another path")
    if _is_set(folder) and not overwrite:
        raise UsageError(
            "holds a set already", where=folder, remedy="choose another path, or pass --overwrite"
        )


def set_files(folder: Path) -> list[Path]:
    """What belongs to a set: classes.txt first, so that a set that lost a part has lost it too."""
    texts = [folder / name for name in (CLASSES, TEMPLATES, CHECKSUMS, SKIPPED)]
    shards = shard_files(folder)
    indices = [index for shard in shards if (index := index_beside(shard)).exists()]
    return [path for path in texts if path.exists()] + indices + shards


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """digests: sha256 (hex) by the name of a file in `folder`."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    write_atomic(folder / CHECKSUMS, "".join(lines))


def shard_files(folder: Path) -> list[Path]:
    """The shards of all splits under the names that kdx writes."""
    return [path for prefix in SPLITS for path in sorted(folder.glob(f"{prefix}-*.tar"))]


def _is_set(folder: Path) -> bool:
    return bool(shard_files(folder)) or any((folder / name).exists() for name in (CLASSES, TEMPLATES))
