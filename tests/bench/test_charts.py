"""Facts of kdx/bench/charts.py."""

import itertools

import pytest
from hypothesis import given, strategies as st

from kdx.bench.charts import LEFT, LINES_BOTTOM, RIGHT, TOP, dot_chart, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 800, [0, 200, 400, 600, 800]),
        (0, 4.8, [0, 1, 2, 3, 4, 5]),
        (0.55, 0.91, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (3, 3, [3, 4, 5, 6]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_reach_over_the_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 4 <= len(found) <= 10
    tolerance = 1e-6 * span + 1e-9 * abs(low)
    assert found[0] <= low + tolerance and found[-1] >= low + span - tolerance


def test_lines_run_from_corner_to_corner() -> None:
    chart = line_chart({"a": [(0, 0.0), (100, 5.0)], "empty": []})
    (line,) = chart.lines
    assert line.points == f"{LEFT:.1f},{LINES_BOTTOM:.1f} {RIGHT:.1f},{TOP:.1f}"
    assert (line.name, line.steps, line.last) == ("a", 100, 5.0)


def test_no_curves_give_no_lines() -> None:
    assert line_chart({}).lines == []


def test_dots_stand_by_value_and_are_said_in_words() -> None:
    dots = [("a", 1.0, 0.5, (0.45, 0.55), "A"), ("b", 4.0, 0.8, None, "B")]
    chart = dot_chart(dots, lambda x: f"{x:g} M", lambda y: f"{100 * y:g} %")
    first, second = chart.dots
    assert first.x < second.x and first.y > second.y  # y runs downwards
    assert first.low is not None and first.high is not None and first.low > first.y > first.high
    assert (first.text_anchor, second.text_anchor) == ("start", "end")
    assert chart.sentence == "A 50 % at 1 M, B 80 % at 4 M"


def test_texts_of_neighbours_do_not_overlap() -> None:
    dots = [(name, 1.0, 0.5 + 0.001 * i, None, name) for i, name in enumerate("abc")]
    heights = sorted(dot.text_y for dot in dot_chart([*dots, ("d", 1.0, 0.9, None, "d")], str, str).dots)
    assert all(b - a >= 17 for a, b in itertools.pairwise(heights))
