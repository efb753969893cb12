"""Which engines may be loaded here: a plan carries code, so only those that kdx built for this user on this machine.

The file `trusted-plans` of the cache folder holds the sha256 of each plan that was built here. A sealed folder alone
does not suffice: whoever hands one on has sealed it, with whatever plan. Who can write the user's cache folder can act
as this user anyway, so a list there is as strong as a signature whose key lies there; the file must belong to the user
and be writable by nobody else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kdx.core.cache import alone, cache_folder
from kdx.core.errors import DataError, SetupError

FILE = "trusted-plans"


def trust_plan(digest: str) -> None:
    """Notes a plan that was built just now. digest: sha256 (hex) of its bytes. Raises SetupError."""
    path = cache_folder() / FILE
    with alone(path.with_suffix(".lock")):
        if digest in _read(path):
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(digest + "\n")


def check_trusted(digest: str, path: Path) -> None:
    """Raises DataError for a plan that was not built here. digest: of the bytes that are about to be loaded."""
    if digest not in _read(cache_folder() / FILE):
        raise DataError(
            "is a TensorRT plan that this user's kdx did not build here; a plan carries code, so it is not loaded",
            where=path,
            remedy="build it here from its deferred export: kdx export --finish DEFERRED --out DIR",
        )


def _read(path: Path) -> set[str]:
    try:
        with path.open(encoding="ascii") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot be read: {error}", where=path, remedy="remove it, and build again"
        ) from None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SetupError(
            "others than this user could have written it, so no plan in it can be trusted",
            where=path,
            remedy="remove it, and build the engines again",
        )
    return set(text.split())
