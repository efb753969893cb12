"""How scores of several seeds are summed up and printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def stdev(values: Sequence[float]) -> float | None:
    """Of the sample; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def percent(mean: float, std: float | None = None) -> str:
    """Fractions as "43.0 ± 0.9 %"."""
    return f"{100 * mean:.1f} %" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f} %"
