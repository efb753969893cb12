"""Exact bounds on a rate from k events in n independent samples (Clopper and Pearson, Biometrika 26, 1934)."""

from __future__ import annotations

from bisect import bisect_left

CONFIDENCE = 0.95  # one-sided
MANY = 2**40  # more samples than anybody has


def upper_bound(events: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """The rate at which `events` or fewer of `samples` have probability 1 - confidence; 1 without samples."""
    from scipy.special import betaincinv  # not at start: the gate's child needs none of it

    return 1.0 if events >= samples else float(betaincinv(events + 1, samples - events, confidence))


def lower_bound(events: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """The rate at which `events` or more of `samples` have probability 1 - confidence; 0 without events."""
    return 1 - upper_bound(samples - events, samples, confidence) if samples else 0.0


def samples_needed(events: int, margin: float, confidence: float = CONFIDENCE) -> int:
    """The smallest number of samples in which `events` still bound the rate by margin (0 < margin < 1)."""

    def enough(samples: int) -> bool:
        return upper_bound(events, samples, confidence) <= margin

    return bisect_left(range(MANY), True, lo=events + 1, key=enough)
