"""A data set as a list of images that lie in files of any kind."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.digests import value_digest
from kdx.core.errors import DataError
from kdx.core.images import decode_image, read_encoded
from kdx.data.sample import key_digest
from kdx.data.tar_index import TarFile


def encode_lossless(image: Image.Image) -> bytes:
    """As BMP: it costs a copy of the pixels, where PNG would take longer than decoding and embedding."""
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


class ImageFile(Protocol):
    """Where the encoded file of one image is. It can be pickled and read by any number of threads and processes."""

    def read(self) -> bytes:
        """Raises DataError where it cannot be read."""
        ...

    def state(self) -> list[Any]:
        """What differs when it is another image: where it lies in its file, and that file's size and time."""
        ...


def file_state(path: str) -> list[Any]:
    try:
        status = os.stat(path)  # noqa: PTH116 - twice as fast as Path's, and a set has 50,000
    except (OSError, ValueError):
        return [None]
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True, slots=True)
class PlainFile:
    path: str

    def state(self) -> list[Any]:
        return file_state(self.path)

    def read(self) -> bytes:
        return read_encoded(Path(self.path))


@dataclass(frozen=True, slots=True)
class CroppedFile:
    """An image without `border` pixels at each side, as ObjectNet's red frame, losslessly encoded again."""

    path: str
    border: int

    def state(self) -> list[Any]:
        return [*file_state(self.path), self.border]

    def read(self) -> bytes:
        image = decode_image(Path(self.path))
        cut = self.border
        if min(image.size) <= 2 * cut:
            raise DataError(
                f"is no larger than its border of {cut} pixels", where=self.path, remedy="remove it"
            )
        return encode_lossless(image.crop((cut, cut, image.width - cut, image.height - cut)))


@dataclass(frozen=True, slots=True)
class TarMember:
    file: TarFile
    offset: int
    size: int

    def state(self) -> list[Any]:
        return [self.file.size, self.file.modified_ns, self.offset, self.size]

    def read(self) -> bytes:
        return self.file.read(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image. key: unique in the set. label: index of its class. captions: maybe none."""

    key: str
    image: ImageFile
    label: int | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a layout found. skipped: (key, reason) of what is no part of it. classes, templates: None where the files
    at hand do not say. texts: by key the labels that are written as texts, names or numbers, and still to be looked up
    among the names.
    """

    entries: list[Entry]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    classes: list[str] | None = None
    templates: list[str] | None = None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class ImageList:
    """A data set by name: an ImageSet."""

    name: str
    place: Path
    entries: list[Entry]
    classes: list[str] | None
    templates: list[str] | None
    skipped: list[tuple[str, str]]
    protocol: str
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [entry.key for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def digest(self) -> str:
        entries = [[each.key, each.image.state(), each.label, each.captions] for each in self.entries]
        return value_digest([entries, self.classes])

    @property
    def key_digests(self) -> npt.NDArray[np.uint64]:
        return np.array([key_digest(key) for key in self.keys], dtype=np.uint64)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        return np.array([-1 if each.label is None else each.label for each in self.entries], dtype=np.int32)

    @property
    def caption_counts(self) -> npt.NDArray[np.int32]:
        return np.array([len(entry.captions) for entry in self.entries], dtype=np.int32)

    def label(self, row: int, /) -> int | None:
        return self.entries[row].label

    def captions(self, row: int, /) -> tuple[str, ...]:
        return self.entries[row].captions

    def image(self, row: int, /) -> bytes:
        """The encoded file. Raises DataError where it cannot be read."""
        return self.entries[row].image.read()
