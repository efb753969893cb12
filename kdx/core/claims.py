"""Claims: lock files by which processes, of one machine or of several with a shared disk, divide work among them.

The system gives a claim back when its process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from enum import Enum
from pathlib import Path

TAKEN_ERRORS = {errno.EWOULDBLOCK, errno.EACCES}


class Claim(Enum):
    """UNKNOWN: the file system has no locks, so nobody can tell."""

    MINE = "mine"
    TAKEN = "taken"
    UNKNOWN = "unknown"


@contextlib.contextmanager
def claim(path: Path) -> Generator[Claim]:
    """For the block, `path` is claimed by this caller alone, if it is free.

    Raises FileNotFoundError without its folder.
    """
    descriptor = _opened(path)
    try:
        yield _lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def shared_claim(path: Path) -> Generator[None]:
    """For the block, nobody can claim `path` alone; any number may share it. Waits for one who has it alone."""
    descriptor = _opened(path)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _lock(descriptor: int, kind: int) -> Claim:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return Claim.TAKEN if error.errno in TAKEN_ERRORS else Claim.UNKNOWN
    return Claim.MINE
