"""Intervals of what is no share of independent trials: by drawing the images anew (B. Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000  # whose 2.5th and 97.5th percentile vary by some 3 % of the interval's width
SEED = 0
LEVEL = (2.5, 97.5)  # percentiles


def bootstrap_interval(
    num_images: int, statistics: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """95 % percentile intervals of several statistics. Returns float64 [S, 2], lower and upper bounds.

    statistics: from how often each image was drawn, int64 [N], to [S] values. Always the same draws.
    """
    random = np.random.default_rng(SEED)
    values = [
        statistics(np.bincount(random.integers(num_images, size=num_images), minlength=num_images))
        for _ in range(RESAMPLES)
    ]
    return np.percentile(np.array(values), LEVEL, axis=0).T
