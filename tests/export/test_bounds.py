"""Facts of export/bounds.py, against published values of Clopper and Pearson's bound."""

import math

import pytest

from kdx.export.bounds import lower_bound, samples_needed, upper_bound


@pytest.mark.parametrize(
    ("events", "margin", "needed"),
    [
        (0, 0.002, 1497),
        (0, 0.01, 299),
        (1, 0.01, 473),
        (2, 0.01, 628),
        (5, 0.01, 1049),
        (10, 0.02, 845),
        (0, 0.02, 149),
    ],
)
def test_samples_needed(events: int, margin: float, needed: int) -> None:
    assert samples_needed(events, margin) == needed


@pytest.mark.parametrize(
    ("events", "samples", "percent"),
    [(3, 5_000, 0.155), (10, 10_000, 0.170), (0, 10_000, 0.030), (5, 50_000, 0.021)],
)
def test_upper_bound(events: int, samples: int, percent: float) -> None:
    assert 100 * upper_bound(events, samples) == pytest.approx(percent, abs=5e-4)


def test_extremes_and_symmetry() -> None:
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1.0
    assert lower_bound(0, 9) == lower_bound(0, 0) == 0.0
    assert lower_bound(3, 10) == pytest.approx(1 - upper_bound(7, 10))
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))


def test_at_the_bound_the_events_have_the_probability_that_is_left() -> None:
    rate = upper_bound(2, 6, 0.9)
    by_hand = sum(math.comb(6, k) * rate**k * (1 - rate) ** (6 - k) for k in range(3))
    assert by_hand == pytest.approx(0.1)
