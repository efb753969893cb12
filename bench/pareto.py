"""Accuracy over what it costs: which models no other beats in both, and the chart that shows it.

Geometry alone, in charts.py's coordinates; pareto.html draws it on any page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .charts import FOOT, LEFT, RIGHT, TOP, WIDTH, Tick, apart, axis

BOTTOM = 320.0  # of the plot


@dataclass(frozen=True)
class Entry:
    """One model. kind: "front", "chosen" or "other". interval: of the value. named: whether its name is drawn."""

    name: str
    title: str
    cost: float
    value: float
    kind: str
    interval: tuple[float, float] | None = None
    named: bool = True


@dataclass(frozen=True)
class Mark:
    """One model. low, high: y of the interval's bounds. text_y, text_anchor: where its name stands, if it has one."""

    x: float
    y: float
    low: float | None
    high: float | None
    kind: str
    name: str
    title: str
    text_y: float
    text_anchor: str


@dataclass(frozen=True)
class ParetoChart:
    """x_title: what the cost is. front: an SVG polyline's points. sentence: the same for those who do not see it."""

    x_title: str
    sentence: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    front: str
    width: float = WIDTH
    height: float = BOTTOM + FOOT
    bottom: float = BOTTOM
    left: float = LEFT
    right: float = RIGHT


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, value) whether no other has at most its cost and at least its value, one of them truly better."""
    return [
        not any(other[0] <= cost and other[1] >= value and other != (cost, value) for other in points)
        for cost, value in points
    ]


def pareto_chart(entries: Sequence[Entry], x_title: str) -> ParetoChart:
    """Values are fractions, shown in percent. A line joins those that are not "other"."""
    bounds = [bound for entry in entries for bound in (entry.value, *(entry.interval or ()))]
    spread = max(bounds) - min(bounds) or 0.1
    x, x_ticks = axis(0, max(entry.cost for entry in entries), LEFT, RIGHT, lambda value: f"{value:.3g}")
    y, y_ticks = axis(
        max(0, min(bounds) - spread / 4),
        min(1, max(bounds) + spread / 4),
        BOTTOM,
        TOP,
        lambda value: f"{100 * value:.3g} %",
    )
    texts = iter(apart([y(entry.value) for entry in entries if entry.named]))
    marks = [
        Mark(
            x=x(entry.cost),
            y=y(entry.value),
            low=y(entry.interval[0]) if entry.interval else None,
            high=y(entry.interval[1]) if entry.interval else None,
            kind=entry.kind,
            name=entry.name,
            title=entry.title,
            text_y=next(texts) if entry.named else 0.0,
            text_anchor="end" if x(entry.cost) > (LEFT + RIGHT) / 2 else "start",
        )
        for entry in entries
    ]
    best = sorted((mark.x, mark.y) for mark in marks if mark.kind != "other")
    return ParetoChart(
        x_title,
        "; ".join(f"{entry.name}: {entry.title}" for entry in entries if entry.kind != "other"),
        x_ticks,
        y_ticks,
        marks,
        " ".join(f"{across:.1f},{up:.1f}" for across, up in best),
    )
