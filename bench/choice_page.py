"""The picture of `kdx export --table`: accuracy over latency, those that are worth a look joined by a line.

One HTML file that needs nothing but itself; choice.html is its template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .choice import about, score_text
from .page import METRICS
from .pareto import Entry, ParetoChart, pareto_chart
from .templates import template_environment


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
        )
    )


def choice_chart(document: Mapping[str, Any]) -> ParetoChart:
    """Only the front has its names in the picture, where there may be dozens of models; the table has all."""
    percentile, batch = document["latency"].values()
    entries: list[Entry] = []
    for row in document["models"]:
        time = row["image"][str(batch)][percentile]
        chosen = row["path"] == document["chosen"]
        entries.append(
            Entry(
                name=f"{row['student']}, {row['format']} {row['precision']}",
                title=f"{row['path']}: {score_text(row)}, {time:.3g} ms",
                cost=time,
                value=row["score"],
                kind="chosen" if chosen else "front" if row["pareto"] else "other",
                named=row["pareto"],
            )
        )
    return pareto_chart(entries, f"{percentile} in ms of {batch} {'image' if batch == 1 else 'images'}")
