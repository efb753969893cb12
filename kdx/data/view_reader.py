"""The pixels of views of samples, and which images do not decode."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError
from kdx.core.preprocess import Preprocess

from .pixels import read_pixels
from .sample import key_digest
from .scaled_pixels import read_scaled_pixels
from .shards import ShardSet
from .views import ViewConfig, choose_view

log = logging.getLogger(__name__)

KEEP_DECODED = 2**30  # bytes of rendered views that are kept in memory: small sets are decoded once


@dataclass(frozen=True)
class Undecodable:
    """In place of the pixels of an image that is none, or damaged."""

    why: str


class ViewReader:
    """Renders views of samples and remembers them while they fit into memory.

    It may be sent to other processes, where it remembers nothing. bad: row → why its image does not decode, of those
    that were noted here.
    """

    def __init__(
        self, samples: ShardSet, preprocess: Preprocess, config: ViewConfig, *, max_bad_share: float
    ) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.config = config
        self.bad: dict[int, str] = {}
        self._max_bad_share = max_bad_share
        size = preprocess.image_size
        shape = (len(samples), config.num_views, size, size, 3)
        keep = int(np.prod(shape)) <= KEEP_DECODED
        self._kept = np.empty(shape, dtype=np.uint8) if keep else None
        self._have = np.zeros(shape[:2] if keep else (0, 0), dtype=bool)

    def forgetful(self) -> ViewReader:
        """As it is in other processes."""
        return copy.copy(self)

    def __getstate__(self) -> dict[str, Any]:
        none = np.zeros((0, 0), dtype=bool)
        return {**self.__dict__, "bad": {}, "_kept": None, "_have": none}

    @property
    def keeps(self) -> bool:
        """Whether each view is decoded once at most."""
        return self._kept is not None

    def decode(self, rows: Sequence[int], view: int) -> Iterator[npt.NDArray[np.uint8] | Undecodable]:
        """Of each row uint8 [S, S, 3], or why there is none; in any thread. Raises DataError if a shard has changed."""
        missing = [row for row in rows if self._kept is None or not self._have[row, view]]
        images, to_decode = self.samples.images(missing), set(missing)
        for row in rows:
            if self._kept is None or row in to_decode:
                yield self._decode(row, view, next(images))
            else:
                yield self._kept[row, view]

    def _decode(self, row: int, view: int, encoded: bytes) -> npt.NDArray[np.uint8] | Undecodable:
        key = key_digest(self.samples.keys[row])  # the column of all would be read in each process
        read = read_scaled_pixels if self.config.decode == "scaled" else read_pixels
        try:
            pixels = read(encoded, self.preprocess, functools.partial(choose_view, self.config, key, view))
        except DataError as error:
            return Undecodable(error.what)
        if self._kept is not None:
            self._kept[row, view] = pixels
            self._have[row, view] = True
        return pixels

    def note_bad(self, row: int, why: str) -> None:
        """Raises DataError when there are too many."""
        if row not in self.bad:
            self.bad[row] = why
            log.warning("skipped sample %s: %s", self.samples.keys[row], why)
            check_bad_share(self.bad, self.samples, self._max_bad_share)


def check_bad_share(bad: dict[int, str], samples: ShardSet, max_bad_share: float) -> None:
    """bad: row → why its image does not decode, in the order in which they were met. Raises DataError for too many."""
    if len(bad) > max_bad_share * len(samples):
        row, why = list(bad.items())[-1]
        raise DataError(
            f"{len(bad)} of {len(samples)} images do not decode, the last one {samples.keys[row]}: {why}",
            where=samples.folder,
            remedy="repair the shards, or raise max_bad_share in the recipe",
        )
