"""Facts of bench/pareto.py."""

import pytest

from kdx.bench.charts import LEFT, RIGHT
from kdx.bench.pareto import Entry, pareto_chart, pareto_front


def test_the_front_holds_what_no_other_beats() -> None:
    #         cheap, worst  beaten by the next  dear, best  equal to the last two  as good, dearer
    points = [(1.0, 0.2), (3.0, 0.4), (2.0, 0.5), (9.0, 0.8), (9.0, 0.8), (10.0, 0.8)]
    assert pareto_front(points) == [True, False, True, True, True, False]


def test_a_chart_begins_at_no_cost_and_joins_the_front() -> None:
    chart = pareto_chart(
        [
            Entry("small", "a", 2.0, 0.4, "front"),
            Entry("beaten", "b", 4.0, 0.3, "other", named=False),
            Entry("large", "c", 4.0, 0.6, "front", interval=(0.5, 0.7)),
        ],
        "ms",
    )
    assert chart.x_ticks[0].at == LEFT and chart.x_ticks[0].text == "0"
    assert [mark.x for mark in chart.marks] == pytest.approx([(LEFT + RIGHT) / 2, RIGHT, RIGHT])
    assert [mark.text_anchor for mark in chart.marks] == ["start", "end", "end"]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in chart.front.split())
    assert x0 < x1 and y0 > y1
    assert chart.sentence == "small: a; large: c"
    large = chart.marks[2]
    assert (
        large.low is not None and large.high is not None and large.low > large.y > large.high
    )  # y is downwards
    assert (large.low + large.high) / 2 == pytest.approx(large.y)
    assert chart.marks[1].low is None and not chart.marks[1].text_y
