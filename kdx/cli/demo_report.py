"""What the report of `kdx demo` says: report.json, and the curves and pictures of report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdx.cli.demo_query import Answers
    from kdx.cli.demo_screen import Screen
    from kdx.evaluate import Evaluation
    from kdx.runtime.exported_model import ExportedModel


@dataclass(frozen=True)
class Results:
    """What the stages found.

    models, scores: of teacher, baseline and distilled; steps: of those that were trained here. latency: by form, as
    `measure_latency`.
    """

    setting: Mapping[str, str | int | float]
    models: dict[str, Path]
    steps: dict[str, int]
    scores: dict[str, Evaluation]
    exported: ExportedModel
    answers: Answers
    latency: dict[str, dict[str, dict[str, float]]]
    triton: dict[str, str]
    seed: int


def write_demo_report(out: Path, results: Results, screen: Screen) -> dict[str, Any]:
    """Writes report.json and report.html into `out` and returns what report.json says."""
    from kdx.bench import write_report
    from kdx.core.log import read_metrics

    screen.command("Write the page again", f"kdx bench report {out}")
    report = _report(results, screen)
    curves = {
        run: [(line["step"], line["task"]) for line in read_metrics(results.models[run] / "metrics.jsonl")]
        for run in results.steps
    }
    answers = results.answers
    write_report(
        report, out, curves=curves, searches=answers.searches, classifications=answers.classifications
    )
    return report


def _report(results: Results, screen: Screen) -> dict[str, Any]:
    from kdx.core.provenance import collect_provenance
    from kdx.models.architectures import count_parameters
    from kdx.models.checkpoint import read_checkpoint_architecture

    architectures = {run: read_checkpoint_architecture(model) for run, model in results.models.items()}
    latency = dict(results.latency)
    of_teacher = latency.pop("teacher")  # a model, not a runtime
    measured = {"teacher": of_teacher, "baseline": latency["torch"], "distilled": latency["torch"]}
    scores = results.scores
    return {
        "title": "kdx demo",
        "summary": _summary(scores),
        "setting": {
            **results.setting,
            "teacher": "trained here"
            if "teacher" in results.steps
            else f"given: {results.models['teacher']}",
            **({"steps of the teacher": results.steps["teacher"]} if "teacher" in results.steps else {}),
            "steps of the students": results.steps["distilled"],
            "objective of CLIP-KD": "task + CRD + ICL + FD with the published weights",
        },
        "accuracy": {
            "metric": scores["teacher"].metric,
            "protocol": _protocol(scores["teacher"]),
            **{run: score.score for run, score in scores.items()},
            "intervals": {run: _interval(score) for run, score in scores.items()},
        },
        "models": {
            run: {
                "architecture": architecture.name,
                "parameters": count_parameters(architecture).total_params,
                "latency_ms": measured[run]["1"]["p50"],
            }
            for run, architecture in architectures.items()
        },
        "parity": results.exported.parity(),
        "latency_ms": latency,
        "triton": results.triton,
        "seconds": {name: round(seconds, 2) for name, seconds in screen.seconds.items()},
        "commands": [{"title": title, "command": text} for title, text in screen.commands],
        "provenance": collect_provenance(
            inputs={
                "student": results.exported.spec.model_digest,
                "teacher": scores["teacher"].model_digest,
            },
            seeds={"data": results.seed, "recipe": results.seed},
        ),
    }


def _summary(scores: dict[str, Evaluation]) -> str:
    baseline, distilled = scores["baseline"].score, scores["distilled"].score
    return (
        f"The same student, pairs and steps: {100 * baseline:.1f} % alone, {100 * distilled:.1f} % with CLIP-KD "
        f"({100 * (distilled - baseline):+.1f} points). Then exported, served and queried."
    )


def _protocol(score: Evaluation) -> str:
    part = score.zero_shot or score.retrieval
    assert part is not None  # evaluate_dataset raises otherwise
    return part.protocol


def _interval(score: Evaluation) -> tuple[float, float]:
    if score.zero_shot:
        return score.zero_shot.top1.interval
    assert score.retrieval is not None
    lower, upper = zip(
        score.retrieval.image_to_text[1].interval, score.retrieval.text_to_image[1].interval, strict=True
    )
    return sum(lower) / 2, sum(upper) / 2
