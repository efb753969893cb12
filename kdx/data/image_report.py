"""What the images of a set are: sizes, formats, duplicates and broken ones. Each is read once."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.errors import DataError
from kdx.core.images import MAX_PIXELS, decode_image
from kdx.core.progress import Progress, silent

from .shards import ShardSet

GROUPS_SHOWN = 20  # of images that are the same, in the record
AHEAD = 256  # images that are handed to the threads in one go


@dataclass(frozen=True, slots=True)
class _Image:
    """digest: 64 bits, of the encoded bytes. broken: why it cannot be used, as far as was looked."""

    digest: int
    format: str | None
    width: int
    height: int
    broken: str | None


def describe_images(
    splits: Mapping[str, ShardSet], *, decode: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Over all splits, JSON-serialisable: images, bytes, formats (counts), shorter_side and longer_side (min, median,
    max of pixels), duplicates (images whose bytes an earlier one has), held_out_duplicates (those of val that train
    has), duplicate_groups (the first, as lists of split/key), broken (key, reason), decoded.

    Without `decode` only what the first bytes tell is called broken.
    """
    total = sum(map(len, splits.values()))
    digests = np.zeros(total, dtype=np.uint64)
    sides = np.zeros((total, 2), dtype=np.int32)
    formats: Counter[str] = Counter()
    broken: list[dict[str, str]] = []
    names = _Names(splits)
    size = 0
    for row, (image, length) in enumerate(_read_all(splits, decode)):
        digests[row] = image.digest
        sides[row] = sorted((image.width, image.height))
        size += length
        formats[image.format or "unknown"] += 1
        if image.broken is not None:
            broken.append({"key": names.of(row), "reason": image.broken})
        if row % 50 == 0 or row + 1 == total:
            progress(row + 1, total)
    known = sides[sides[:, 0] > 0]
    num_train = len(splits.get("train", ()))
    return {
        "images": total,
        "bytes": size,
        "formats": dict(formats.most_common()),
        "shorter_side": _spread(known[:, 0]),
        "longer_side": _spread(known[:, 1]),
        "duplicates": total - len(np.unique(digests)),
        "held_out_duplicates": int(np.isin(digests[num_train:], digests[:num_train]).sum()),
        "duplicate_groups": [[names.of(row) for row in group] for group in _groups(digests)],
        "broken": broken,
        "decoded": decode,
    }


class _Names:
    """`train/KEY` of a row over all splits, train first."""

    def __init__(self, splits: Mapping[str, ShardSet]) -> None:
        self._splits = splits

    def of(self, row: int) -> str:
        for name, samples in self._splits.items():
            if row < len(samples):
                return f"{name}/{samples.keys[row]}"
            row -= len(samples)
        raise IndexError(row)


def _read_all(splits: Mapping[str, ShardSet], decode: bool) -> Iterator[tuple[_Image, int]]:
    def read(samples: ShardSet, row: int) -> tuple[_Image, int]:
        content = samples.image(row)
        return _look_at(content, decode), len(content)

    with ThreadPoolExecutor(os.cpu_count() if decode else 1) as pool:
        for samples in splits.values():
            for first in range(0, len(samples), AHEAD):
                rows = range(first, min(first + AHEAD, len(samples)))
                yield from pool.map(read, [samples] * len(rows), rows)


def _look_at(content: bytes, decode: bool) -> _Image:
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP", "AVIF")) as opened:
            kind, width, height = opened.format, opened.width, opened.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _Image(digest, None, 0, 0, _why(content))
    if width * height > MAX_PIXELS:
        return _Image(digest, kind, width, height, f"has more than {MAX_PIXELS:,} pixels")
    return _Image(digest, kind, width, height, _why(content) if decode else None)


def _why(content: bytes) -> str | None:
    try:
        decode_image(content)
    except DataError as error:
        return error.what
    return None


def _spread(values: npt.NDArray[np.int32]) -> dict[str, int] | None:
    if len(values) == 0:
        return None
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _groups(digests: npt.NDArray[np.uint64]) -> Iterator[list[int]]:
    """Rows with equal digests, as many groups as are shown."""
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.diff(digests[order], prepend=digests[order][:1] + 1))
    sizes = np.diff(np.append(starts, len(order)))
    for start, count in [(s, c) for s, c in zip(starts, sizes, strict=True) if c > 1][:GROUPS_SHOWN]:
        yield order[start : start + count].tolist()
