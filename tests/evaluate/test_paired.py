"""Facts of kdx/evaluate/paired.py; the values are worked by hand or published."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize_scalar

from kdx.evaluate.paired import Difference, Discordance, Z, tango_interval


def test_images_are_counted_by_who_gets_them_right() -> None:
    first = np.array([True, True, True, False, False, False])
    second = np.array([True, False, False, True, False, False])
    counted = Discordance.count(first, second)
    assert counted == Discordance(both=1, only_first=2, only_second=1, neither=2) and counted.total == 6
    assert (counted.difference.first, counted.difference.second) == (3 / 6, 2 / 6)
    assert counted.difference.value == pytest.approx(-1 / 6)


def test_mcnemars_p_is_the_binomial_tails() -> None:
    # of eight images one alone gets right, one or none for the first: 2 · (1 + 8) / 2⁸
    assert Discordance(5, 1, 7, 9).p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert Discordance(5, 7, 1, 9).p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert Discordance(500, 0, 1, 900).p_value == 1.0  # either could have got the one


def test_without_an_image_that_one_alone_gets_right_nothing_speaks_for_a_difference() -> None:
    same = Discordance(30, 0, 0, 14)
    assert same.p_value == 1.0 and same.difference.value == 0
    # the score test's variance is then δ (1 - |δ|) / n, so that it rejects from z² / (n + z²) on
    edge = Z**2 / (44 + Z**2)
    assert same.difference.interval == pytest.approx((-edge, edge))


def test_the_interval_is_the_published_one() -> None:
    """Fagerland, Lydersen and Laake 2014, airway hyper-responsiveness: 1, 1, 7, 12 give -0.286 (-0.517 to -0.026)."""
    found = Discordance(both=1, only_first=7, only_second=1, neither=12).difference
    assert found.value == pytest.approx(-0.286, abs=5e-4)
    assert found.interval == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_interval_mirrors_when_the_models_change_places() -> None:
    low, high = tango_interval(9, 4, 50)
    assert tango_interval(4, 9, 50) == pytest.approx((-high, -low))


def test_a_model_that_alone_gets_everything_right_has_an_open_end() -> None:
    low, high = tango_interval(0, 12, 12)
    assert high == 1.0 and 0 < low < 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_both_bounds_lie_where_the_score_test_begins_to_reject(data: st.DataObject) -> None:
    total = data.draw(st.integers(3, 200))
    only_first = data.draw(st.integers(0, total))
    only_second = data.draw(st.integers(0, total - only_first))
    observed = (only_second - only_first) / total
    for bound in tango_interval(only_first, only_second, total):
        if abs(bound) > 0.999:
            continue
        variance = _constrained_variance(only_first, only_second, total, bound)
        assert abs(observed - bound) / np.sqrt(variance) == pytest.approx(Z, rel=1e-3)


def _constrained_variance(only_first: int, only_second: int, total: int, delta: float) -> float:
    """Of the observed difference under `delta`, at the likeliest share of only_first, found by search."""
    same = total - only_first - only_second

    def unlikelihood(share: float) -> float:
        shares, counts = (share, share + delta, 1 - 2 * share - delta), (only_first, only_second, same)
        return -sum(
            count * np.log(max(each, 1e-300)) for each, count in zip(shares, counts, strict=True) if count
        )

    lowest, highest = max(0.0, -delta), (1 - delta) / 2
    found: Any = minimize_scalar(
        unlikelihood, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}
    )
    share = min((lowest, highest, float(found.x)), key=unlikelihood)
    return (2 * share + delta - delta**2) / total


def test_a_difference_is_told_with_both_scores() -> None:
    assert Difference(0.25, 0.75, (0.25, 0.625)).to_dict() == {
        "first": 0.25,
        "second": 0.75,
        "value": 0.5,
        "low": 0.25,
        "high": 0.625,
    }
