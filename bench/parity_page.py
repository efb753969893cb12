"""The picture of `kdx parity`: how far two models' embeddings lie apart, and what that does to similarities.

One HTML file that needs nothing but itself; parity.html is its template. No image and no text of the samples is in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.export.comparison import cosine_distances

from .charts import FOOT, LEFT, RIGHT, TOP, WIDTH, Tick, ticks
from .templates import template_environment

FloatArray = npt.NDArray[np.floating[Any]]

BOTTOM = 220.0  # of a plot
DECADES = range(-16, 1)  # of 1 − cosine; what is 0 or rounded below it stands in the first
BINS_A_DECADE = 4
MOST_DOTS = 400  # of each kind


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """sentence: the same for those who do not see it."""

    title: str
    sentence: str
    bars: list[Bar]
    x_ticks: list[Tick]


@dataclass(frozen=True)
class Scatter:
    """pairs, others: (x, y) of similarities of images with their own texts, and with other ones. line: where equal."""

    sentence: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    pairs: list[tuple[float, float]]
    others: list[tuple[float, float]]
    line: tuple[float, float, float, float]


def render_parity_page(
    report: Mapping[str, Any],
    reference: tuple[FloatArray, FloatArray],
    candidate: tuple[FloatArray, FloatArray],
) -> str:
    """The whole HTML document.

    report: parity.json's keys, with `reference` and `candidate` as the names of the models. reference, candidate:
    their embeddings of the same images [N, D] and texts [M, D], unit rows.
    """
    checks = [(name, check) for name, tier in report["tiers"].items() for check in tier["checks"]]
    return (
        template_environment()
        .get_template("parity.html")
        .render(
            report=report,
            checks=checks,
            width=WIDTH,
            height=BOTTOM + FOOT,
            bottom=BOTTOM,
            left=LEFT,
            right=RIGHT,
            top=TOP,
            histograms=[
                histogram(f"1 − cosine of {name}", np.maximum(cosine_distances(first, second), 0))
                for name, first, second in zip(("images", "texts"), reference, candidate, strict=True)
            ],
            scatter=scatter(reference[0] @ reference[1].T, candidate[0] @ candidate[1].T),
        )
    )


def histogram(title: str, values: npt.NDArray[np.float64]) -> Histogram:
    """values: ≥ 0, on a logarithmic axis of the decades in which they lie."""
    exponents = np.log10(np.maximum(values, 10.0 ** DECADES[0]))
    low, high = math.floor(exponents.min()), math.floor(exponents.max()) + 1
    counts, edges = np.histogram(exponents, bins=(high - low) * BINS_A_DECADE, range=(low, high))

    def place(exponent: float) -> float:
        return LEFT + (exponent - low) / (high - low) * (RIGHT - LEFT)

    scale = (BOTTOM - TOP) / counts.max()
    bars = [
        Bar(
            place(start),
            BOTTOM - count * scale,
            place(end) - place(start),
            count * scale,
            f"{count} from {10.0**start:.1e} to {10.0**end:.1e}",
        )
        for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if count
    ]
    step = max(1, (high - low) // 6)
    x_ticks = [Tick(place(exponent), f"1e{exponent}") for exponent in range(low, high + 1, step)]
    sentence = f"median {np.median(values):.2g}, largest {values.max():.2g}, of {len(values):,}"
    return Histogram(title, sentence, bars, x_ticks)


def scatter(reference: FloatArray, candidate: FloatArray) -> Scatter:
    """reference, candidate: similarities [N, M] of every image with every text."""
    rows, columns = reference.shape
    count = min(rows, columns)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_DOTS)).astype(int))
    own = (chosen, chosen)
    other = (chosen, (chosen + max(1, columns // 2)) % columns)
    values = np.concatenate([part[kind] for part in (reference, candidate) for kind in (own, other)])
    marks = ticks(float(values.min()), float(values.max()))
    low, high = marks[0], marks[-1]

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)

    def up(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    def dots(kind: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> list[tuple[float, float]]:
        pairs = zip(reference[kind].tolist(), candidate[kind].tolist(), strict=True)
        return [(across(x), up(y)) for x, y in pairs]

    largest = float(np.abs(reference - candidate).max())
    return Scatter(
        f"similarities differ by at most {largest:.2g}",
        [Tick(across(mark), f"{mark:.3g}") for mark in marks],
        [Tick(up(mark), f"{mark:.3g}") for mark in marks],
        dots(own),
        dots(other),
        (across(low), up(low), across(high), up(high)),
    )
