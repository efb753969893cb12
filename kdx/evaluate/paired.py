"""Two models on the same images: is the difference of their scores more than chance?

What both get right or both get wrong says nothing about which is better, so everything here looks at the images on
which they differ. Two intervals that overlap would hide many a difference that the pairs show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .metrics import Z


@dataclass(frozen=True)
class Difference:
    """What the second model scores more than the first: a fraction, with its 95 % interval over the same images."""

    first: float
    second: float
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        """-1 … 1."""
        return self.second - self.first

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        return {"first": self.first, "second": self.second, "value": self.value, "low": low, "high": high}


@dataclass(frozen=True)
class Discordance:
    """How two models' hits fall on the same images: both right, one alone, neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def count(cls, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Discordance:
        """first, second: [N], whether each is right."""
        return cls(
            both=int((first & second).sum()),
            only_first=int((first & ~second).sum()),
            only_second=int((second & ~first).sum()),
            neither=int((~first & ~second).sum()),
        )

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> Difference:
        """Of the two accuracies, with Tango's interval."""
        return Difference(
            (self.both + self.only_first) / self.total,
            (self.both + self.only_second) / self.total,
            tango_interval(self.only_first, self.only_second, self.total),
        )

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: an image that one alone gets right is as likely to be the other's."""
        differing = self.only_first + self.only_second
        if not differing:
            return 1.0
        from scipy.stats import binomtest  # not at start: it takes a second

        return float(binomtest(self.only_second, differing).pvalue)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.difference.to_dict(),
            "p_value": self.p_value,
            "both": self.both,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "neither": self.neither,
        }


def tango_interval(only_first: int, only_second: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of (only_second - only_first) / total for paired proportions (T. Tango 1998).

    It holds the differences that the score test does not reject. As Wilson's for one proportion, it holds for few
    images and at the ends, where mean ± 1.96 standard errors does not; without discordant pairs it has a width.
    """
    from scipy.optimize import root_scalar

    b, c, n = only_second, only_first, total

    def deviation(delta: float) -> float:
        """Standard errors under `delta`: n times the variance is 2·q + δ(1 - δ), q the likeliest share of c."""
        linear = (2 * n - b + c) * delta - b - c
        constant = -c * delta * (1 - delta)
        q = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        return math.sqrt(n * max(0.0, 2 * q + delta * (1 - delta)))

    def margin(delta: float, sign: int) -> float:
        return b - c - n * delta + sign * Z * deviation(delta)

    def bound(sign: int) -> float:
        observed, end = (b - c) / n, float(sign)
        if observed == end:
            return end
        beside = observed + sign * 1e-9  # at the observed one itself the deviation may be 0
        return float(root_scalar(margin, args=(sign,), bracket=(beside, end)).root)

    return bound(-1), bound(1)
