"""Facts of kdx/evaluate/bootstrap.py."""

import numpy as np
import pytest

from kdx.evaluate.bootstrap import bootstrap_interval


def test_of_a_mean_the_interval_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(7).normal(3.0, 2.0, 400)

    def mean(drawn: np.ndarray) -> np.ndarray:
        return np.array([drawn @ values / drawn.sum()])

    ((low, high),) = bootstrap_interval(400, mean)
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_each_draw_is_of_as_many_images_and_always_the_same() -> None:
    seen: list[list[int]] = []

    def note(drawn: np.ndarray) -> np.ndarray:
        seen.append(drawn.tolist())
        return np.zeros(1)

    bootstrap_interval(5, note)
    first = seen.copy()
    seen.clear()
    bootstrap_interval(5, note)
    assert seen == first and {sum(drawn) for drawn in seen} == {5} and len(set(map(tuple, seen))) > 50
