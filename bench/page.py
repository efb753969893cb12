"""The page: what is shown where, in words and rounded numbers; report.html is its template.

Everything that comes from a report is data: the template escapes it, and the page's policy allows neither
scripts nor the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment

from .charts import DotChart, dot_chart, line_chart
from .pictures import data_uri
from .schema import ClassifyExample, Percentiles, Report, ReportData, Run, SearchExample
from .templates import template_environment

RUNS: dict[Run, str] = {"baseline": "Student alone", "distilled": "Student, distilled", "teacher": "Teacher"}
METRICS = {
    "zero_shot_top1": "zero-shot top-1 accuracy",
    "retrieval_recall@1": "retrieval recall@1, mean of both directions",
}
RUNTIMES = {
    "torch": "PyTorch",
    "onnx": "ONNX Runtime",
    "triton": "Triton",
    "preprocess": "Preprocessing alone",
}

THIN = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class Score:
    """One run's score in percent, with what its bar needs."""

    key: str
    name: str
    value: float
    low: float | None
    high: float | None
    detail: str


@dataclass(frozen=True)
class Gain:
    """points: distilled over baseline, in points. share: of the way to the teacher, in percent, where there is one."""

    points: float
    share: float | None
    overlap: bool


@dataclass(frozen=True)
class LatencyBar:
    """Milliseconds, and the same as percent of the chart's width."""

    name: str
    ms: Percentiles
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class LatencyChart:
    batch: str
    bars: list[LatencyBar]


@dataclass(frozen=True)
class Found:
    uri: str
    score: float


@dataclass(frozen=True)
class Search:
    query: str
    found: list[Found]


@dataclass(frozen=True)
class Guess:
    label: str
    percent: float
    right: bool


@dataclass(frozen=True)
class Classified:
    """right: None where the truth is not known."""

    uri: str
    guesses: list[Guess]
    truth: str | None
    right: bool | None


def render_page(report: Report, data: ReportData) -> str:
    """The whole HTML document. Raises DataError for a picture that does not decode."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            metric=METRICS.get(report.accuracy.metric, report.accuracy.metric),
            scores=_scores(report),
            gain=_gain(report),
            created=_date(report.created),
            machine=_machine(report.provenance),
            losses=line_chart(_named(data.curves)),
            by_size=_by_size(report),
            by_latency=_by_latency(report),
            size_share=_size_share(report),
            latencies=_latencies(report),
            min_samples=min(
                p.num_samples for batches in report.latency_ms.values() for p in batches.values()
            ),
            total_seconds=sum(report.seconds.values()),
            searches=[_search(example) for example in data.searches],
            classified=[_classified(example) for example in data.classifications],
            provenance={key: _plain(value) for key, value in report.provenance.items()},
        )
    )


def _environment() -> Environment:
    environment = template_environment()
    environment.filters |= {
        "percent": lambda fraction: f"{100 * fraction:.1f}{THIN}%",
        "sentence": lambda text: text[:1].upper() + text[1:],
        "points": lambda points: f"{points:+.1f}".replace("-", "−"),
        "ms": format_ms,
        "seconds": format_seconds,
        "run": lambda name: {title: key for key, title in RUNS.items()}.get(name, "other"),
        "runtime": lambda name: RUNTIMES.get(name, name),
        "tolerance": lambda value: f"{value:.1e}",
    }
    return environment


def format_ms(value: float) -> str:
    """Three significant digits: 0.0421, 3.42, 128."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def format_seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f}{THIN}s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}{THIN}min {seconds:02d}{THIN}s" if minutes else f"{seconds}{THIN}s"


def _scores(report: Report) -> list[Score]:
    accuracy = report.accuracy
    scores: list[Score] = []
    for key, name in RUNS.items():
        interval = accuracy.intervals.get(key)
        model = report.models.get(key)
        scores.append(
            Score(
                key,
                name,
                100 * getattr(accuracy, key),
                100 * interval[0] if interval else None,
                100 * interval[1] if interval else None,
                f"{model.architecture}, {_millions(model.parameters)} parameters" if model else "",
            )
        )
    return scores


def _gain(report: Report) -> Gain:
    accuracy = report.accuracy
    gap, won = accuracy.teacher - accuracy.baseline, accuracy.distilled - accuracy.baseline
    baseline, distilled = accuracy.intervals.get("baseline"), accuracy.intervals.get("distilled")
    overlap = bool(baseline and distilled and baseline[0] <= distilled[1] and distilled[0] <= baseline[1])
    return Gain(100 * won, 100 * won / gap if gap > 0 and won > 0 else None, overlap)


def _named(curves: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """The curves by the names that are shown, the runs that are known first."""
    known = {title: curves[key] for key, title in RUNS.items() if key in curves}
    return known | {name: curve for name, curve in curves.items() if name not in RUNS}


def _by_size(report: Report) -> DotChart | None:
    if not report.models:
        return None
    return _dots(
        report, {key: model.parameters / 1e6 for key, model in report.models.items()}, lambda x: f"{x:.3g} M"
    )


def _by_latency(report: Report) -> DotChart | None:
    latency = {key: model.latency_ms for key, model in report.models.items() if model.latency_ms is not None}
    if len(latency) < len(RUNS):
        return None
    return _dots(report, latency, lambda x: f"{x:.3g} ms")


def _dots(report: Report, across: Mapping[Any, float], x_text: Any) -> DotChart:
    accuracy = report.accuracy
    dots = [
        (key, across[key], getattr(accuracy, key), accuracy.intervals.get(key), name)
        for key, name in RUNS.items()
    ]
    return dot_chart(dots, x_text, lambda y: f"{100 * y:.4g} %")


def _size_share(report: Report) -> float | None:
    if not report.models:
        return None
    return report.models["distilled"].parameters / report.models["teacher"].parameters


def _latencies(report: Report) -> list[LatencyChart]:
    batches = sorted({int(batch) for rows in report.latency_ms.values() for batch in rows})
    charts: list[LatencyChart] = []
    for batch in map(str, batches):
        rows = {name: rows[batch] for name, rows in report.latency_ms.items() if batch in rows}
        longest = max(ms.p99 for ms in rows.values())
        bars = [
            LatencyBar(name, ms, *(100 * value / longest for value in (ms.p50, ms.p95, ms.p99)))
            for name, ms in rows.items()
        ]
        charts.append(LatencyChart(batch, bars))
    return charts


def _search(example: SearchExample) -> Search:
    pairs = zip(example.images, example.scores, strict=True)
    return Search(example.query, [Found(data_uri(image), score) for image, score in pairs])


def _classified(example: ClassifyExample) -> Classified:
    guesses = [Guess(label, 100 * share, label == example.truth) for label, share in example.top]
    right = guesses[0].right if guesses and example.truth is not None else None
    return Classified(data_uri(example.image), guesses, example.truth, right)


def _machine(provenance: Mapping[str, Any]) -> str:
    cpu, count, gpu = (provenance.get(key) for key in ("cpu", "cpu_count", "gpu"))
    parts = [f"{cpu}, {count} cores" if count else str(cpu)] if cpu else []
    return " · ".join([*parts, *map(str, gpu if isinstance(gpu, list) else [])])


def _date(created: str) -> str:
    """2026-11-24T21:02:14+00:00 → 24 November 2026, 21:02 UTC"""
    try:
        moment = datetime.fromisoformat(created).astimezone(UTC)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g}{THIN}M"
