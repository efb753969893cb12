"""Exact bounds on a rate from k events in n independent samples (Clopper and Pearson, Biometrika 26, 1934)."""

from __future__ import annotations

import math

CONFIDENCE = 0.95  # one-sided


def upper_bound(events: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """The rate at which `events` or fewer of `samples` have probability 1 - confidence; 1 without samples."""
    if events >= samples:
        return 1.0
    low, high = events / samples, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if binomial_tail(events, samples, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def lower_bound(events: int, samples: int, confidence: float = CONFIDENCE) -> float:
    """The rate at which `events` or more of `samples` have probability 1 - confidence; 0 without events."""
    return 1 - upper_bound(samples - events, samples, confidence) if samples else 0.0


def samples_needed(events: int, margin: float, confidence: float = CONFIDENCE) -> int:
    """The smallest number of samples in which `events` still bound the rate by margin (0 < margin < 1)."""
    enough = events + 1
    while upper_bound(events, enough, confidence) > margin:
        enough *= 2
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        if upper_bound(events, middle, confidence) > margin:
            short = middle
        else:
            enough = middle
    return enough


def binomial_tail(events: int, samples: int, rate: float) -> float:
    """P(X ≤ events) for X binomial with this rate, 0 < rate < 1; summed from logarithms."""
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    log_all = math.lgamma(samples + 1)
    terms = (
        math.exp(
            log_all
            - math.lgamma(k + 1)
            - math.lgamma(samples - k + 1)
            + k * log_rate
            + (samples - k) * log_rest
        )
        for k in range(events + 1)
    )
    return math.fsum(terms)
