"""Images that are files under one or several folders."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..drafts import MAX_IMAGE
from .source import Unusable

SMALLEST = 4096  # bytes of one read


class ImageFiles:
    """Finds a path in the first of `folders` that has it, and reads it; absolute paths are taken as they are."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = [os.fspath(folder.absolute()) for folder in folders]

    def read(self, image: str) -> bytes:
        """Raises Unusable."""
        try:
            descriptor = self._open(image)
        except (FileNotFoundError, NotADirectoryError):
            raise Unusable("there is no such file") from None
        except (OSError, ValueError) as error:  # ValueError: NUL
            raise Unusable(f"cannot be read: {getattr(error, 'strerror', error)}") from None
        try:
            return _read_all(descriptor)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def state(self, image: str) -> tuple[int, int] | None:
        for path in self._paths(image):
            try:
                status = os.stat(path)  # noqa: PTH116 - twice as fast as Path's, and one is needed for each image
            except (OSError, ValueError):
                continue
            return status.st_size, status.st_mtime_ns
        return None

    def relative(self, image: str) -> str:
        """An absolute path without the folder that it lies in."""
        for folder in self._folders:
            if image.startswith(folder + "/"):
                return image[len(folder) + 1 :]
        return image

    def _open(self, image: str) -> int:
        missing: OSError | None = None
        for path in self._paths(image):
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold it up
            except (FileNotFoundError, NotADirectoryError) as error:
                missing = error
        raise missing or FileNotFoundError

    def _paths(self, image: str) -> list[str]:
        names = [image, image.replace("\\", "/")] if "\\" in image else [image]
        return [f"{folder}/{name}" if name[:1] != "/" else name for name in names for folder in self._folders]


class OfFiles:
    """What all sources have in common whose images are files. place: what was given, for errors."""

    classes: list[str] | None = None

    def __init__(self, place: Path, folders: list[Path]) -> None:
        self.place = place
        self._files = ImageFiles(folders)

    def read(self, image: str) -> bytes:
        return self._files.read(image)

    def state(self, image: str) -> tuple[int, int] | None:
        return self._files.state(image)

    def name(self, image: str) -> str:
        return image


def _read_all(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # of a device there is no end
        raise Unusable("it is no file")
    size = status.st_size
    if size > MAX_IMAGE:
        raise Unusable(f"it has {size:,} bytes")
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, max(SMALLEST, size + 1)):  # one more shows whether it is all
        chunks.append(chunk)
        if len(chunk) == size:
            break
    return b"".join(chunks)
