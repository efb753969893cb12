"""What is scored: images with labels, captions or both, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class ImageSet(Protocol):
    """A split of shards, or a data set by name.

    It can be pickled and read by any number of threads and processes at a time. What is asked of all rows at once is a
    column: of a million shards' samples nothing is in memory (shard_set.py).
    """

    @property
    def name(self) -> str:
        """As it is told beside the score: "shards (val)", "imagenet-v2"."""
        ...

    @property
    def place(self) -> Path:
        """Where it lies, for errors."""
        ...

    @property
    def protocol(self) -> str:
        """Which captions there are, such as "first caption" or "5 captions an image"."""
        ...

    @property
    def classes(self) -> list[str] | None:
        """Names in label order, maybe one twice; None where it has no classes."""
        ...

    @property
    def templates(self) -> list[str] | None:
        """Prompts with {} for the class; None where it prescribes none."""
        ...

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of samples that are malformed and no part of it."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Unique, row by row."""
        ...

    @property
    def digest(self) -> str:
        """sha256 (hex) of what is scored: the images with their keys, labels and captions, and the classes' names.

        Of an image that is a file of its own the size and the time of modification stand for its bytes.
        """
        ...

    def __len__(self) -> int: ...

    @property
    def key_digests(self) -> npt.NDArray[np.uint64]:
        """[N], the key_digest of each key."""
        ...

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """[N], -1 for an image without a label."""
        ...

    @property
    def caption_counts(self) -> npt.NDArray[np.int32]:
        """[N], how many captions each image has, maybe none."""
        ...

    def label(self, row: int, /) -> int | None: ...

    def captions(self, row: int, /) -> tuple[str, ...]:
        """Maybe none."""
        ...

    def image(self, row: int, /) -> bytes:
        """The encoded file. Raises DataError where it cannot be read."""
        ...


def captions_an_image(counts: npt.NDArray[np.int32]) -> str:
    """The protocol where all captions count: "5 captions an image", "1 to 5 captions an image".

    counts: [N], how many captions each image has.
    """
    counts = counts[counts > 0]
    if len(counts) == 0:
        return "no captions"
    low, high = int(counts.min()), int(counts.max())
    number = f"{high}" if low == high else f"{low} to {high}"
    return f"{number} caption{'' if high == 1 else 's'} an image"
