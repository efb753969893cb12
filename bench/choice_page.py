"""The picture of `kdx export --table`: accuracy over latency, those that are worth a look joined by a line.

One HTML file that needs nothing but itself; choice.html is its template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .charts import FOOT, LEFT, RIGHT, TOP, WIDTH, Tick, apart, axis
from .choice import about, score_text
from .page import METRICS
from .templates import template_environment

BOTTOM = 320.0  # of the plot


@dataclass(frozen=True)
class Mark:
    """One model. kind: "front", "chosen" or "other". text_y, text_anchor: where its name stands, if it has one."""

    x: float
    y: float
    kind: str
    name: str
    title: str
    text_y: float
    text_anchor: str


@dataclass(frozen=True)
class ChoiceChart:
    """front: an SVG polyline's points. sentence: the same for those who do not see it."""

    sentence: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    front: str


def render_choice_page(document: Mapping[str, Any]) -> str:
    """The whole HTML document. document: as kdx.bench.choice.compare_exports returns it."""
    return (
        template_environment()
        .get_template("choice.html")
        .render(
            document=document,
            about=about(document),
            score_text=score_text,
            metric=METRICS.get(metric := document["models"][0]["metric"], metric),
            chart=choice_chart(document),
            width=WIDTH,
            height=BOTTOM + FOOT,
            bottom=BOTTOM,
            left=LEFT,
            right=RIGHT,
            top=TOP,
        )
    )


def choice_chart(document: Mapping[str, Any]) -> ChoiceChart:
    """Only the front has its names in the picture, where there may be dozens of models; the table has all."""
    rows, percentile, batch = document["models"], *document["latency"].values()
    times = [row["image"][str(batch)][percentile] for row in rows]
    scores = [row["score"] for row in rows]
    spread = max(scores) - min(scores) or 0.1
    x, x_ticks = axis(0, max(times), LEFT, RIGHT, lambda value: f"{value:.3g}")
    y, y_ticks = axis(
        max(0, min(scores) - spread / 4),
        min(1, max(scores) + spread / 4),
        BOTTOM,
        TOP,
        lambda value: f"{100 * value:.3g} %",
    )
    front = sorted((x(time), y(row["score"])) for row, time in zip(rows, times, strict=True) if row["pareto"])
    texts = iter(apart([y(row["score"]) for row in rows if row["pareto"]]))
    marks: list[Mark] = []
    for row, time in zip(rows, times, strict=True):
        chosen = row["path"] == document["chosen"]
        marks.append(
            Mark(
                x(time),
                y(row["score"]),
                "chosen" if chosen else "front" if row["pareto"] else "other",
                f"{row['student']}, {row['format']} {row['precision']}",
                f"{row['path']}: {score_text(row)}, {time:.3g} ms",
                next(texts) if row["pareto"] else 0.0,
                "end" if x(time) > (LEFT + RIGHT) / 2 else "start",
            )
        )
    best = [f"{mark.name}: {mark.title}" for mark, row in zip(marks, rows, strict=True) if row["pareto"]]
    return ChoiceChart(
        "; ".join(best), x_ticks, y_ticks, marks, " ".join(f"{across:.1f},{up:.1f}" for across, up in front)
    )
