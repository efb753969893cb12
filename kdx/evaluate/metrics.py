"""Ranks, top-k hits and their 95 % intervals.

Of equal scores the candidate with the lower index ranks first, wherever the wanted one stands. So an encoder
that maps everything to one vector scores what guessing does, never a perfect result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError

Z = 1.959963984540054  # of the normal distribution, two-sided 95 %
MAX_SCORES = 2**24  # scores held at a time: 64 MiB, and about three times that while ranks are counted


@dataclass(frozen=True)
class Proportion:
    """hits of total, with Wilson's 95 % score interval (E. B. Wilson 1927), which holds at 0 and at total too.

    resampled: the interval where trials are not independent, as several captions of one image, in Wilson's place.
    """

    hits: int
    total: int
    resampled: tuple[float, float] | None = field(default=None, compare=False, repr=False)

    @property
    def value(self) -> float:
        """The fraction, 0 … 1."""
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, 0 … 1."""
        if self.resampled is not None:
            return self.resampled
        share, spread = self.value, Z**2 / self.total
        middle = (share + spread / 2) / (1 + spread)
        half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
        # at the ends rounding would leave a bound beside the end itself
        return (middle - half if self.hits else 0.0), (middle + half if self.hits < self.total else 1.0)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high, "hits": self.hits, "total": self.total}


@dataclass(frozen=True)
class Estimate:
    """A value that is no share, with its 95 % interval by drawing the images anew."""

    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high}


def best_ranks(scores: FloatArray, relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The rank (0 = first) of the best relevant candidate of each row.

    scores, relevant: [B, N]; each row of `relevant` has at least one True. Returns int64 [B].
    """
    wanted = np.where(relevant, scores, -np.inf)
    first = wanted.argmax(axis=1)[:, None]  # of equal ones argmax gives the lowest index
    best = np.take_along_axis(wanted, first, axis=1)
    before = np.arange(scores.shape[1]) < first
    return ((scores > best) | ((scores == best) & before)).sum(axis=1)


def target_ranks(scores: FloatArray, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rank (0 = first) of one wanted candidate in each row. scores: [B, N]; targets, result: int64 [B]."""
    return best_ranks(scores, targets[:, None] == np.arange(scores.shape[1]))


def share_within(ranks: npt.NDArray[np.int64], k: int) -> Proportion:
    """How many ranks are among the first k: top-k accuracy of classes, recall@k of pairs."""
    return Proportion(int((ranks < k).sum()), len(ranks))


def check_embeddings(embeddings: FloatArray, what: str) -> None:
    """Raises DataError for NaN or infinity: a comparison with NaN is False, so every rank would be the first."""
    if not np.isfinite(embeddings).all():
        raise DataError(
            f"the encoder gives NaN or infinity for {what}", remedy="check the model with kdx export"
        )


def blocks(num_queries: int, num_candidates: int) -> Iterator[slice]:
    """Parts of the queries whose scores are held at a time."""
    size = max(1, MAX_SCORES // max(1, num_candidates))
    return (slice(start, start + size) for start in range(0, num_queries, size))
