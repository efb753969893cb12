"""CIFAR-10 and CIFAR-100 as published: the test batch of the Python version, or of the binary one.

    cifar-10-batches-py/test_batch   cifar-10-batches-bin/test_batch.bin
    cifar-100-python/test            cifar-100-binary/test.bin

Python: a pickled dictionary with `data`, uint8 [N, 3072], a row red, green and blue one after the other, and `labels`
(CIFAR-100: `fine_labels`). Binary: rows of a byte with the label (CIFAR-100: the coarse, then the fine one) and 3,072
bytes as above. Facts from https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.errors import DataError
from kdx.core.images import read_encoded

from .image_list import Entry, Listing, encode_lossless
from .safe_pickle import NOT_READ, StoredArray, read_pickle
from .table import SetRecord, class_folders

SIDE, VALUES = 32, 3 * 32 * 32


@dataclass(frozen=True)
class _Version:
    """Where a version's test batch lies, and what precedes the pixels of a row in the binary one."""

    python: str
    binary: str
    labels: bytes
    label_bytes: int


_VERSIONS = {
    10: _Version("cifar-10-batches-py/test_batch", "cifar-10-batches-bin/test_batch.bin", b"labels", 1),
    100: _Version("cifar-100-python/test", "cifar-100-binary/test.bin", b"fine_labels", 2),
}


@dataclass(frozen=True, slots=True)
class BatchImage:
    """An image of a batch in memory. pixels: uint8 [N, 3072], shared by all."""

    pixels: npt.NDArray[np.uint8]
    row: int

    def state(self) -> list[Any]:
        return [hashlib.sha256(self.pixels[self.row].tobytes()).hexdigest()]

    def read(self) -> bytes:
        planes = self.pixels[self.row].reshape(3, SIDE, SIDE)
        return encode_lossless(Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))))


def read_cifar(record: SetRecord, root: Path) -> Listing | None:
    """None where neither batch is there, in its folder or right at the root."""
    names = list(class_folders(record).values())
    version = _VERSIONS[len(names)]
    if (path := _find(root, version.python)) is not None:
        pixels, labels = _read_python(path, version)
    elif (path := _find(root, version.binary)) is not None:
        pixels, labels = _read_binary(path, version)
    else:
        return None
    entries = [Entry(f"{row:05d}", BatchImage(pixels, row), label) for row, label in enumerate(labels)]
    return Listing(entries, classes=names)


def expected_batch(record: SetRecord) -> str:
    version = _VERSIONS[len(class_folders(record))]
    return f"{version.python} nor {version.binary}"


def _find(root: Path, batch: str) -> Path | None:
    return next((path for path in (root / batch, root / Path(batch).name) if path.is_file()), None)


def _read_python(path: Path, version: _Version) -> tuple[npt.NDArray[np.uint8], list[int]]:
    batch: Any = read_pickle(path)
    data = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(version.labels) if isinstance(batch, dict) else None
    if not isinstance(data, StoredArray) or not isinstance(labels, list):
        raise DataError(
            f"has no array `data` and list `{version.labels.decode()}`", where=path, remedy=NOT_READ
        )
    pixels = data.bytes_of(path)
    if pixels.shape != (len(labels), VALUES) or not all(type(x) is int and x >= 0 for x in labels):
        raise DataError(
            f"has data of shape {list(pixels.shape)} and {len(labels):,} labels", where=path, remedy=NOT_READ
        )
    return pixels, labels


def _read_binary(path: Path, version: _Version) -> tuple[npt.NDArray[np.uint8], list[int]]:
    content = np.frombuffer(read_encoded(path), dtype=np.uint8)
    size = version.label_bytes + VALUES
    if len(content) % size:
        raise DataError(
            f"has {len(content):,} bytes, which is no multiple of {size:,}, the size of an image",
            where=path,
            remedy=NOT_READ,
        )
    rows = content.reshape(-1, size)
    return rows[:, version.label_bytes :], rows[:, version.label_bytes - 1].tolist()
