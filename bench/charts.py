"""Geometry of the report's charts: from numbers to coordinates; the template draws them.

Coordinates are in a view box of WIDTH × a chart's height, y downwards; the plot lies within the margins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH = 480.0
LEFT, RIGHT, TOP = 48.0, 464.0, 12.0  # edges of the plot
LINES_BOTTOM, DOTS_BOTTOM = 320.0, 192.0
LINE_HEIGHT = 17.0
FOOT = 44.0  # height of what stands below the plot
MOST_DOTS = 40  # of a curve

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """at: coordinate along its axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """points: an SVG polyline's. steps, last: where the curve ends. dots: its points, where they are few enough."""

    name: str
    points: str
    dots: list[Point]
    steps: int
    last: float


@dataclass(frozen=True)
class LineChart:
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]

    @property
    def height(self) -> float:
        return self.bottom + FOOT


@dataclass(frozen=True)
class Dot:
    """low, high: y of the interval's bounds. text_y, text_anchor: where the dot's text is, and on which side."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    text: str
    text_y: float
    text_anchor: str


@dataclass(frozen=True)
class DotChart:
    """sentence: the same for those who do not see it."""

    sentence: str
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]

    @property
    def height(self) -> float:
        return self.bottom + FOOT


def line_chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> LineChart:
    """One line a curve of (step, value); curves without points are left out."""
    curves = {name: curve for name, curve in curves.items() if curve}
    steps = [step for curve in curves.values() for step, _ in curve]
    values = [value for curve in curves.values() for _, value in curve]
    if not curves:
        return LineChart(LINES_BOTTOM, [], [], [])
    x, x_ticks = axis(0, max(steps), LEFT, RIGHT, _count)
    y, y_ticks = axis(min(0, *values), max(values), LINES_BOTTOM, TOP, _short)
    lines: list[Line] = []
    for name, curve in curves.items():
        points = [(x(step), y(value)) for step, value in curve]
        text = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        lines.append(Line(name, text, points if len(points) <= MOST_DOTS else [], *curve[-1]))
    return LineChart(LINES_BOTTOM, x_ticks, y_ticks, lines)


def dot_chart(
    dots: Sequence[tuple[str, float, float, tuple[float, float] | None, str]],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> DotChart:
    """One dot for each (name, x, y, interval of y, text). The x axis starts at 0, the y axis near the lowest."""
    heights = [bound for _, _, y, interval, _ in dots for bound in (y, *(interval or ()))]
    spread = max(heights) - min(heights) or 0.1
    x, x_ticks = axis(0, max(dot[1] for dot in dots), LEFT, RIGHT, x_text)
    y, y_ticks = axis(
        max(0, min(heights) - spread / 4), min(1, max(heights) + spread / 4), DOTS_BOTTOM, TOP, y_text
    )
    texts = apart([y(height) for _, _, height, _, _ in dots])
    middle = (LEFT + RIGHT) / 2
    placed = [
        Dot(
            name,
            x(across),
            y(height),
            y(interval[0]) if interval else None,
            y(interval[1]) if interval else None,
            text,
            text_y,
            "end" if x(across) > middle else "start",
        )
        for (name, across, height, interval, text), text_y in zip(dots, texts, strict=True)
    ]
    sentence = ", ".join(
        f"{text} {y_text(height)} at {x_text(across)}" for _, across, height, _, text in dots
    )
    return DotChart(sentence, DOTS_BOTTOM, x_ticks, y_ticks, placed)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 × a power of ten apart, four to ten of them) that reach from low to high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (10, 5, 2, 1) if span / (factor * power) >= 3)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis(
    low: float, high: float, start: float, end: float, text: Callable[[float], str]
) -> tuple[Callable[[float], float], list[Tick]]:
    """A linear scale from the first tick at `start` to the last at `end`, and its ticks."""
    values = ticks(low, high)
    first, last = values[0], values[-1]

    def place(value: float) -> float:
        return start + (value - first) / (last - first) * (end - start)

    return place, [Tick(place(value), text(value)) for value in values]


def apart(heights: Sequence[float]) -> list[float]:
    """The heights moved down, where they must be, so that no two texts overlap."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=lambda i: placed[i])
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE_HEIGHT)
    return placed


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:.6g}"
