"""Which exported model to serve: accuracy, size, latency and parity of several side by side, and a budget.

Accuracy is that of `kdx eval`; latency is the encoders' alone, each model in a process of its own on one thread, in
turn (kdx/evaluate/speed.py), measured anew: what the manifests say was measured at other times, perhaps elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import kdx
from kdx.core.cpu import instruction_sets
from kdx.core.errors import GateError, SetupError, UsageError
from kdx.core.progress import Stages, silent_stages
from kdx.core.provenance import collect_provenance
from kdx.evaluate import Evaluation, evaluate_dataset
from kdx.evaluate.speed import BATCHES, TEXT_LENGTH, Case, SpeedProcess, Timing, take_turns
from kdx.runtime.exported_model import ExportedModel, open_exported_model

from .pareto import pareto_front
from .runtimes import TOLD

MIN_SAMPLES = 20  # calls that are timed of each case; of fewer, the 95th percentile is the maximum
BUDGET = re.compile(r"(p50|p95)<=(\d+(?:\.\d+)?)ms@batch=([1-9]\d{0,3})")

Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long the image encoder may take for a batch of `batch`: its `percentile` (p50 or p95) in milliseconds."""

    percentile: str
    milliseconds: float
    batch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Such as `p95<=20ms@batch=1`. Raises UsageError."""
        found = BUDGET.fullmatch(text.replace(" ", ""))
        if not found or not float(found[2]) > 0:
            raise UsageError(f"{text!r} is no budget", remedy='for example "p95<=20ms@batch=1"; p50 or p95')
        return cls(found[1], float(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.percentile}<={self.milliseconds:g}ms@batch={self.batch}"


def compare_exports(
    paths: Sequence[Path],
    data: Path,
    *,
    budget: Budget | None = None,
    limit: int | None = None,
    seconds: float = 10.0,
    stages: Stages = silent_stages,
) -> dict[str, Any]:
    """Measures all, and says which are worth a look and which one to take.

    data: its val split gives the accuracy, over `limit` images or all. seconds: of timing, of each model.

    Returns, as JSON: `models`, the most accurate first: `path`, `student`, `format`, `precision`, `metric`, `score` and
    its 95 % `interval` (None for retrieval), `parity`, `bytes`, `parameters`, `flops` (both None of an older export),
    `image` and `text` (batch size → Timing.summary), `peak_mib`, `pareto` (whether no other is at least as accurate and
    as fast, and in one of them better); `latency`, the percentile and batch that this is about; `left_out`, by path why
    this machine cannot run it; `budget`, `chosen`; `num_images`, `text_length`, `load_average`, `provenance`.

    Raises UsageError for a model given twice, or one that is not exported; DataError for a folder that is not whole;
    SetupError if none runs here.
    """
    models = _open(paths)
    batches = sorted({*BATCHES, budget.batch} if budget else BATCHES)
    percentile, batch = (budget.percentile, budget.batch) if budget else ("p50", 1)
    evaluations, left_out = _evaluate(models, data, limit, stages)
    models = [model for model in models if model.path in evaluations]
    timings, peaks, load = _time(models, batches, seconds, stages)
    rows = [
        _row(model, evaluations[model.path], timing, peak, batches)
        for model, timing, peak in zip(models, timings, peaks, strict=True)
    ]
    rows.sort(key=lambda row: (-row["score"], row["image"][str(batch)][percentile]))
    front = pareto_front([(row["image"][str(batch)][percentile], row["score"]) for row in rows])
    for row, is_in in zip(rows, front, strict=True):
        row["pareto"] = is_in
    known = instruction_sets()
    return {
        "models": rows,
        "left_out": {str(path): reason for path, reason in left_out.items()},
        "latency": {"percentile": percentile, "batch": batch},
        "num_images": max(evaluation.num_images for evaluation in evaluations.values()),
        "text_length": TEXT_LENGTH,
        "threads": 1,
        "load_average": load,
        "instruction_sets": [name for name in TOLD if name in known],
        "budget": str(budget) if budget else None,
        "chosen": _choose(rows, budget) if budget else None,
        "provenance": collect_provenance(shipped=True),
    }


def check_met(document: dict[str, Any]) -> None:
    """Raises GateError, with the nearest model, if there was a budget and none meets it."""
    if document["budget"] is None or document["chosen"] is not None:
        return
    percentile, batch = document["latency"]["percentile"], document["latency"]["batch"]
    nearest = min(document["models"], key=lambda row: row["image"][str(batch)][percentile])
    raise GateError(
        f"no model meets {document['budget']}; the nearest needs {nearest['image'][str(batch)][percentile]:.3g} ms",
        where=nearest["path"],
        remedy="allow more, export at a lower precision, or distil a smaller student",
    )


def choice_table(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    batches = list(document["models"][0]["image"])
    header = ["model", "student", "export", document["models"][0]["metric"], "parity", "MB", "GFLOPs"]
    header += [f"image×{batch}, ms" for batch in batches] + ["text×1, ms", "peak MiB", ""]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in document["models"]:
        cells = [
            row["path"],
            row["student"],
            f"{row['format']} {row['precision']}",
            score_text(row),
            row["parity"],
        ]
        cells += [f"{row['bytes'] / 1e6:.1f}", f"{row['flops']['image'] / 1e9:.2f}" if row["flops"] else ""]
        cells += [_times(row["image"][batch]) for batch in batches] + [_times(row["text"]["1"])]
        marks = ["Pareto"] * row["pareto"] + ["chosen"] * (row["path"] == document["chosen"])
        cells += [f"{row['peak_mib']:.0f}", ", ".join(marks)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", about(document)]
    lines += [f"Left out: {path}: {reason}" for path, reason in document["left_out"].items()]
    return "\n".join(lines) + "\n"


def about(document: Mapping[str, Any]) -> str:
    """What the numbers were taken on, in a line."""
    provenance = document["provenance"]
    return (
        f"p50 (p95) of the whole batch on one thread; text of {document['text_length']} tokens, or of the one "
        f"length that a model takes; scores on {document['num_images']:,} images. {provenance['cpu']}, "
        f"{', '.join(document['instruction_sets'])}; "
        f"load average {document['load_average']:.1f}."
    )


def score_text(row: Row) -> str:
    """In percent, with its interval where it has one."""
    if row["interval"] is None:
        return f"{100 * row['score']:.1f} %"
    low, high = row["interval"]
    return f"{100 * row['score']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _times(timing: dict[str, float]) -> str:
    return f"{timing['p50']:.3g} ({timing['p95']:.3g})"


def _open(paths: Sequence[Path]) -> list[ExportedModel]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a model was given twice", remedy="give each once")
    return [open_exported_model(path) for path in paths]


def _evaluate(
    models: Sequence[ExportedModel], data: Path, limit: int | None, stages: Stages
) -> tuple[dict[Path, Evaluation], dict[Path, str]]:
    """By path: what each scores, or why it does not run here."""
    evaluations: dict[Path, Evaluation] = {}
    left_out: dict[Path, SetupError] = {}
    for model in models:
        with stages(f"scoring {model.path.name}") as progress:
            try:
                with kdx.load(model.path) as embedder:
                    evaluations[model.path] = evaluate_dataset(embedder, data, limit=limit, progress=progress)
            except SetupError as error:
                left_out[model.path] = error
    if not evaluations:
        raise next(iter(left_out.values()))
    return evaluations, {path: error.what for path, error in left_out.items()}


def _time(
    models: Sequence[ExportedModel], batches: Sequence[int], seconds: float, stages: Stages
) -> tuple[list[dict[Case, Timing]], list[float], float]:
    """Of each model the times and the peak in MiB; the load average before."""
    cases = [*map(Case, batches), Case(1, TEXT_LENGTH)]
    with ExitStack() as stack, stages("timing") as progress:
        processes = [stack.enter_context(SpeedProcess(model.path)) for model in models]
        load = os.getloadavg()[0]
        timings = take_turns(processes, cases, seconds=seconds, min_samples=MIN_SAMPLES, progress=progress)
        return timings, [process.peak_mib() for process in processes], load


def _row(
    model: ExportedModel,
    evaluation: Evaluation,
    timing: dict[Case, Timing],
    peak: float,
    batches: Sequence[int],
) -> Row:
    sizes = model.manifest.fields.get("sizes", {})
    return {
        "path": str(model.path),
        "student": model.spec.name,
        "format": model.format.name,
        "precision": model.precision,
        "metric": evaluation.metric,
        "score": evaluation.score,
        "interval": list(evaluation.zero_shot.top1.interval) if evaluation.zero_shot else None,
        "parity": model.parity()["verdict"],
        "bytes": model.encoder_bytes(),
        "parameters": sizes.get("parameters"),
        "flops": sizes.get("flops"),
        "image": {str(batch): timing[Case(batch)].summary() for batch in batches},
        "text": {"1": timing[Case(1, TEXT_LENGTH)].summary()},
        "peak_mib": peak,
    }


def _choose(rows: Sequence[Row], budget: Budget) -> str | None:
    """The path of the most accurate that meets it, the fastest of equals. rows: so ordered."""
    batch, percentile = str(budget.batch), budget.percentile
    return next((row["path"] for row in rows if row["image"][batch][percentile] <= budget.milliseconds), None)
