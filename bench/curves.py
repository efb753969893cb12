"""The page of `kdx distill --plot`: what runs logged, one chart for each number, runs side by side.

One HTML file that needs nothing but itself; curves.html is its template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, UsageError
from kdx.core.log import read_metrics

from .charts import LineChart, line_chart
from .templates import template_environment

METRICS = "metrics.jsonl"
MAX_RUNS = 6  # colours that can be told apart
MAX_POINTS = 300  # of a curve; a chart is some 400 pixels wide
X_AXES = ("step", "epoch")  # how far a run is, and no number of its own
SCORES = "val_"  # how the names of scores on held-out pairs begin
MEASURED = ("pairs_per_second", "seconds_waiting_share", "mfu", "peak_mib", "seconds_validating")

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class LoggedRun:
    """curves: (step, value) by the name of the number, as it was logged; finite ones alone."""

    name: str
    steps: int
    curves: dict[str, Curve]


@dataclass(frozen=True)
class NumberChart:
    """last: the value that each run logged last, by the run's name. best: of a score, its first highest point."""

    name: str
    chart: LineChart
    last: dict[str, float]
    best: dict[str, tuple[int, float]]


def read_runs(folders: Sequence[Path]) -> list[LoggedRun]:
    """The runs under names that tell them apart; also one that is not finished.

    Raises UsageError for more than six or for the same one twice, DataError for a folder without numbers.
    """
    if len(folders) > MAX_RUNS:
        raise UsageError(
            f"{len(folders)} runs cannot be told apart in a chart", remedy=f"draw up to {MAX_RUNS}"
        )
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UsageError("is given twice", where=folder, remedy="give each run once")
    return [_read_run(folder, name) for folder, name in zip(folders, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """Their last parts, as many as make them different."""
    for count in range(1, max((len(place.parts) for place in places), default=1) + 1):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return list(map(str, places))


def _read_run(folder: Path, name: str) -> LoggedRun:
    try:
        rows = read_metrics(folder / METRICS)
    except FileNotFoundError:
        raise DataError(
            f"is no run: there is no {METRICS}",
            where=folder,
            remedy="give the folder that `kdx distill --out` made",
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read: {error}", where=folder / METRICS, remedy="train the run again"
        ) from None
    curves: dict[str, Curve] = {}
    for row in rows:
        for key, value in row.items():
            if key not in X_AXES and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(key, []).append((int(row["step"]), float(value)))
    if not curves:
        raise DataError(
            f"{METRICS} has no numbers yet", where=folder, remedy="wait until the run has logged some"
        )
    return LoggedRun(name, int(rows[-1]["step"]), curves)


def chart_numbers(runs: Sequence[LoggedRun]) -> list[NumberChart]:
    """One chart for each number that any run logged: loss, scores, the others as they were logged, measurements."""
    names = dict.fromkeys(name for run in runs for name in run.curves)
    charts: list[NumberChart] = []
    for name in sorted(names, key=_group):
        curves = {run.name: run.curves[name] for run in runs if name in run.curves}
        charts.append(
            NumberChart(
                name,
                line_chart({run: thin_out(curve) for run, curve in curves.items()}),
                {run: curve[-1][1] for run, curve in curves.items()},
                {run: max(curve, key=lambda point: point[1]) for run, curve in curves.items()}
                if name.startswith(SCORES)
                else {},
            )
        )
    return charts


def _group(name: str) -> int:
    """Which numbers stand together on the page."""
    if name == "loss":
        return 0
    if name.startswith(SCORES):
        return 1
    return 3 + MEASURED.index(name) if name in MEASURED else 2


def thin_out(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """At most `most` points: of so many neighbours the mean value, at the last one's step."""
    size = math.ceil(len(curve) / most)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def render_curves(runs: Sequence[LoggedRun]) -> str:
    """The whole HTML document."""
    colours: Mapping[str, Any] = {run.name: number for number, run in enumerate(runs)}
    return (
        template_environment()
        .get_template("curves.html")
        .render(runs=runs, charts=chart_numbers(runs), colours=colours)
    )
