"""The page of `kdx eval --table`: the family's table, and its accuracy over size and over latency.

One HTML file that needs nothing but itself; family.html is its template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .family import Row, about, cells, header, score_text
from .page import METRICS
from .pareto import Entry, ParetoChart, pareto_chart, pareto_front
from .templates import template_environment

MAX_NAMES = 12  # in one chart; beyond, only the front is named


def render_family_page(document: Mapping[str, Any]) -> str:
    """The whole HTML document. document: as kdx.bench.family.compare_family returns it."""
    return (
        template_environment()
        .get_template("family.html")
        .render(
            header=header(document),
            rows=[cells(row) for row in document["rows"]],
            about=about(document),
            metric=METRICS.get(document["metric"], document["metric"]),
            by_size=_chart(document, lambda row: row["parameters"] / 1e6, "million parameters"),
            by_latency=_chart(document, lambda row: row["ms"]["p50"], "p50 in ms of 1 image"),
        )
    )


def _chart(document: Mapping[str, Any], cost: Callable[[Row], float], x_title: str) -> ParetoChart:
    rows = document["rows"]
    front = pareto_front([(cost(row), row["score"]) for row in rows])
    entries = [
        Entry(
            name=f"{row['network']}, {row['method']}" if row["method"] else row["network"],
            title=f"{score_text(row)}, {cost(row):.3g}",
            cost=cost(row),
            value=row["score"],
            kind="front" if is_in else "other",
            interval=_interval(row),
            named=is_in or len(rows) <= MAX_NAMES,
        )
        for row, is_in in zip(rows, front, strict=True)
    ]
    return pareto_chart(entries, x_title)


def _interval(row: Row) -> tuple[float, float] | None:
    """One standard deviation each way over seeds; of one seed the 95 % interval, if it has one."""
    if row["std"] is not None:
        return row["score"] - row["std"], row["score"] + row["std"]
    return tuple(row["interval"]) if row["interval"] else None
