"""Where kdx keeps on this machine what it can make again: the server's environment, engines, timing caches."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from .errors import SetupError

OTHER_FOLDER = "set KDX_CACHE to a folder that may be written"


def cache_folder() -> Path:
    """KDX_CACHE, or else the user's cache folder.

    Raises SetupError for a user without a home folder, as in a container that runs under an unknown user id.
    """
    if chosen := os.environ.get("KDX_CACHE"):
        return Path(chosen).absolute()
    import platformdirs  # not in the environment of a server, which is given KDX_CACHE

    with contextlib.suppress(RuntimeError):  # what newer platformdirs raise without a home
        folder = platformdirs.user_cache_path("kdx")
        if folder.is_absolute():  # older ones leave the ~ where it is
            return folder
    raise SetupError("this user has no home folder", remedy="set KDX_CACHE to a folder that it may write")


@contextlib.contextmanager
def alone(path: Path) -> Generator[None]:
    """Other processes that come here with the same lock file wait until the block ends. Raises SetupError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SetupError(
            f"cannot be written: {error.strerror}", where=path.parent, remedy=OTHER_FOLDER
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
