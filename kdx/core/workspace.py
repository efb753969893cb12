"""Where a product is made before it gets its name: a hidden folder beside its place, of one writer alone.

`.NAME.building-TOKEN/` holds `new`, what is being made; `old`, what that replaces, for the moment between two renames;
and `lock`, which the writer keeps locked. So two writers never meet, and what a killed one left can be told from what
somebody is writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from .errors import SetupError

log = logging.getLogger(__name__)

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextlib.contextmanager
def workspace(path: Path) -> Generator[Path]:
    """Yields the place, still empty, where what is to lie at `path` can be made; what is left there is removed.

    Move it with `move_all`. Names what killed writers left beside `path`. Raises SetupError where nothing can be
    written, and for a full disk whichever library met it.
    """
    _name_abandoned(path)
    folder = path.parent / f".{path.name}.building-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SetupError(
            f"a folder cannot be made here: {error.strerror}",
            where=_visible(path),
            remedy="choose another path",
        ) from None
    try:
        with full_disk_said(path), kept_locked(folder):
            yield folder / "new"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    """Renames each first path to the second, or none of them: after an error all are back."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keeps other writers of kdx from looking at and moving what lies in `folder`: for moments only.

    Where a file system has no such locks it goes on without.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_said(path: Path) -> Generator[None]:
    """Raises SetupError for a full disk while `path` is written, also where a library says it in words of its own."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or not (number in FULL or isinstance(error, shutil.Error)):
            raise
        raise SetupError(
            f"cannot be written: {os.strerror(number)}",
            where=_visible(path),
            remedy=f"free space there and where temporary files lie ({tempfile.gettempdir()}), or choose another path",
        ) from None


@contextlib.contextmanager
def kept_locked(folder: Path) -> Generator[None]:
    """The file `lock` in `folder` is locked from the moment that it is there."""
    unnamed = folder / "locking"
    with unnamed.open("wb") as file:
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: then nobody is told that this is abandoned
            fcntl.flock(file, fcntl.LOCK_EX)
            unnamed.rename(folder / "lock")
        yield


def _name_abandoned(path: Path) -> None:
    for folder in sorted(path.parent.glob(f".{glob.escape(path.name)}.building-*")):
        if not is_abandoned(folder):
            continue
        if (folder / "old").exists() and not path.exists():
            log.warning(
                "a run that was killed left what lay at %s before; to have it back: mv %s %s",
                path,
                shlex.quote(str(folder / "old")),
                shlex.quote(str(path)),
            )
        log.warning("a run that was killed left %s; to remove it: rm -r %s", folder, shlex.quote(str(folder)))


def is_abandoned(folder: Path) -> bool:
    """Whether this can be said for sure."""
    try:
        with (folder / "lock").open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # somebody writes there, there is no lock, or not the right to see it
        return False


def _error_number(error: Exception) -> int | None:
    """The operating system's; safetensors and tokenizers write "(os error 28)", shutil.Error "[Errno 28]" a file, and
    SQLite has names of its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    of_sqlite = getattr(error, "sqlite_errorname", "")
    if of_sqlite == "SQLITE_FULL":
        return errno.ENOSPC
    if of_sqlite.startswith("SQLITE_IOERR"):
        return errno.EIO
    said = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(said[1] or said[2]) if said else None


def _visible(path: Path) -> str:
    """The path as the user gave it: what lies in a workspace will lie where that is moved to."""
    return re.sub(r"/\.([^/]+)\.building-[0-9a-f]{8}/new\b", r"/\1", str(path))
