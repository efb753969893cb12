"""Sealed folders: every product of kdx is a folder that is either whole or does not open.

A sealed folder is made in a workspace beside its place, each file is fsynced and digested, `manifest.json` is written
last, and the folder is renamed into place. Opening checks kind, schema and digests. Nothing in a folder is ever
unpickled or executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from .digests import file_digest
from .errors import DataError, SetupError, UsageError
from .urls import url_of
from .workspace import locked, move_all, workspace

MANIFEST = "manifest.json"
SCHEMA = 1
LARGE = 256 * 2**20  # bytes
NOT_UTF8 = "is a name that is not UTF-8, which the libraries that read and write models refuse"


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. digest: sha256 (hex) of every other file by its path inside the folder."""

    kind: str
    schema: int
    created: str
    digest: dict[str, str]
    provenance: dict[str, Any]
    fields: dict[str, Any] = field(default_factory=lambda: {})


@contextlib.contextmanager
def sealed_folder(
    path: Path,
    kind: str,
    *,
    overwrite: bool = False,
    inputs: dict[str, str] | None = None,
    seeds: dict[str, int] | None = None,
    fields: dict[str, Any] | None = None,
    shipped: bool = False,
) -> Generator[Path]:
    """Yields an empty folder to fill; seals it and moves it to `path` when the block ends without an error.

    fields: what the manifest says beyond the common part; the block may still add to it. inputs: digests
    of what the product was made from. shipped: the product is handed on, so the manifest tells no paths of this
    machine. On an error nothing is left, and what lay at `path` is there again. Raises
    UsageError when `path` exists and `overwrite` is not set, or when it exists and is not a sealed folder of this
    kind; SetupError when the disk is full.
    """
    from .provenance import collect_provenance  # what it asks is imported by nobody else

    check_free(path, kind, overwrite=overwrite)
    path = _without_dots(path)
    with workspace(path) as new:
        new.mkdir()
        yield new
        provenance = collect_provenance(inputs=inputs, seeds=seeds, shipped=shipped)
        seal(new, path, kind, provenance, fields or {}, overwrite=overwrite)


def seal(
    new: Path,
    path: Path,
    kind: str,
    provenance: dict[str, Any],
    fields: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Seals the folder `new` and moves it to `path`; what it replaces there becomes `old` beside `new`.

    Raises UsageError when another process has written to `path` meanwhile.
    """
    digest = {name: file_digest(new / name) for name in _file_names(new)}
    for name in digest:
        open_to_readers(new / name, new)
        fsync(new / name)
    write_atomic(new / MANIFEST, manifest_text(kind, digest, provenance, fields))
    with locked(path.parent):
        check_free(path, kind, overwrite=overwrite)
        stepping_aside = [(path, new.with_name("old"))] if path.exists() else []
        move_all([*stepping_aside, (new, path)])  # a rename cannot replace a folder that is not empty
        fsync(path.parent)


def manifest_text(
    kind: str, digest: dict[str, str], provenance: dict[str, Any], fields: dict[str, Any]
) -> str:
    """What manifest.json says of a folder that is sealed now. digest: of its files."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(kind, SCHEMA, created, digest, provenance, fields)
    return json.dumps(manifest.__dict__, indent=2, sort_keys=True) + "\n"


def check_free(path: Path, kind: str, *, overwrite: bool = False) -> None:
    """Raises UsageError if a sealed folder of this kind may not be written to `path`, SetupError if it cannot be.

    Call before long work.
    """
    check_place(path)
    path = _without_dots(path)
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise UsageError("exists already", where=path, remedy="choose another path, or pass --overwrite")
    if not path.is_dir() or path.is_symlink() or (any(path.iterdir()) and _kind_of(path) != kind):
        raise UsageError(
            f"is not a folder of kdx of kind {kind}, so it will not be overwritten",
            where=path,
            remedy="choose another path",
        )


def check_place(path: Path) -> None:
    """Raises UsageError if `path` is a URL, is not UTF-8, lies under a file or in a sealed folder, SetupError without
    permission to write.
    """
    if url_of(path) is not None:
        raise UsageError(
            "is a URL, and this is written to a disk", where=path, remedy="name a folder, and copy it there"
        )
    path = _without_dots(path)
    if not _is_utf8(path):
        raise UsageError(NOT_UTF8, where=path, remedy="choose another path")
    if inside := next((parent for parent in path.parents if _kind_of(parent)), None):
        raise UsageError(
            f"lies in the {_kind_of(inside)} {inside}, which would no longer be whole",
            where=path,
            remedy="choose another path",
        )
    above = next((parent for parent in path.parents if parent.exists()), path)
    if not above.is_dir():
        raise UsageError(f"{above} is a file, not a folder", where=path, remedy="choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SetupError(f"no permission to write in {above}", where=path, remedy="choose another path")


def open_sealed(
    path: Path, kind: str, *, verify_large: bool = True, only: Collection[str] | None = None
) -> Manifest:
    """Checks that a whole folder of this kind lies at `path` and returns its manifest.

    verify_large: whether digests are checked also in a folder whose files have more than LARGE bytes together. only:
    the files that will be read; of the others, which may be large, nothing is asked then. Raises DataError naming the
    first file that is missing, surplus or changed.
    """
    again = f"make the {kind} again, or copy it again from where it came"
    if not path.is_dir():
        raise DataError(f"there is no {kind} folder here", where=path, remedy="check the path")
    manifest = read_manifest(path)
    if manifest.kind != kind:
        raise DataError(
            f"is of kind {manifest.kind}, not {kind}",
            where=path,
            remedy=f"give the path of a folder of kind {kind}",
        )
    if manifest.schema != SCHEMA:
        raise DataError(
            f"has schema {manifest.schema}, this kdx reads {SCHEMA}",
            where=path,
            remedy="use the kdx that wrote it",
        )
    present = set(_file_names(path))
    asked = present | manifest.digest.keys() if only is None else set(only)
    for name in sorted(asked - present):
        raise DataError("file is missing", where=path / name, remedy=again)
    for name in sorted(asked - manifest.digest.keys()):
        raise DataError("file does not belong to the sealed folder", where=path / name, remedy="remove it")
    if not verify_large and sum((path / name).stat().st_size for name in present) > LARGE:
        return manifest
    for name in sorted(asked):
        if file_digest(path / name) != manifest.digest[name]:
            raise DataError("file has changed since it was sealed", where=path / name, remedy=again)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of any sealed folder, unverified. Raises DataError if there is none or it is damaged."""
    if not _is_utf8(path):
        raise DataError(NOT_UTF8, where=path, remedy="rename it")
    try:
        return parse_manifest((path / MANIFEST).read_text(encoding="utf-8"), path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"has no {MANIFEST}, so it is not a whole folder of kdx",
            where=path,
            remedy="check the path; an interrupted run must be started again",
        ) from None
    except (ValueError, OSError) as error:
        raise _unreadable(path, error) from None


def parse_manifest(text: str, path: Path) -> Manifest:
    """What the manifest.json in `path` says. Raises DataError."""
    try:
        manifest = Manifest(**json.loads(text))
        if not isinstance(cast(Any, manifest.digest), dict):
            raise TypeError("digest is no table")
        return manifest
    except TypeError:  # JSON of somebody else: a web app's manifest has this name too
        raise DataError(
            "is no manifest of kdx", where=path / MANIFEST, remedy="check the path, or make the folder again"
        ) from None
    except ValueError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot be read: {error}", where=path / MANIFEST, remedy="make or copy the folder again"
    )


def check_space(path: Path, size: int) -> None:
    """Raises SetupError unless the disk of `path` has `size` bytes left. Call before long work."""
    path = _without_dots(path)
    above = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(above).free
    if free < size:
        raise SetupError(
            f"needs {_in_units(size)}, and {_in_units(free)} are free",
            where=path,
            remedy="free space, or choose another path",
        )


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Raises UsageError where a folder lies, SetupError where nothing can be written.
    """
    if path.is_dir():
        raise UsageError("is a folder, not a file", where=path, remedy="name a file")
    with workspace(path) as new:
        with new.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DataError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, remedy="check the path") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from None
    except ValueError as error:
        raise DataError(f"cannot be read as JSON: {error}", where=path, remedy="check the file") from None
    if not isinstance(content, dict):
        raise DataError("must hold a JSON object", where=path, remedy="check the file")
    return cast(dict[str, Any], content)


def _without_dots(path: Path) -> Path:
    """Absolute. `missing/../run` is `run` also before `missing` is made, which making the parents would do."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link that lies at `path`


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a byte that is not UTF-8 is a lone surrogate here
        return False
    return True


def _file_names(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    names = (file.relative_to(folder).as_posix() for file in files if "__pycache__" not in file.parts)
    return sorted(name for name in names if name != MANIFEST)


def _kind_of(path: Path) -> str | None:
    try:
        return read_manifest(path).kind
    except DataError:
        return None


def open_to_readers(file: Path, folder: Path) -> None:
    """Lets those read a file who may read the folder it comes into: safetensors 0.8 writes for the owner alone."""
    file.chmod(folder.stat().st_mode & 0o666)


def fsync(path: Path) -> None:
    """Returns when what was written to a file, or which names are in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_units(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
