"""`kdx eval A B …`: several models on one data set, each against the first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdx.core.spelling import count_of

from .output import print_json, save_document
from .progress import show_progress

if TYPE_CHECKING:
    from kdx.data.image_set import ImageSet
    from kdx.evaluate import Evaluation
    from kdx.evaluate.agreement import Agreement
    from kdx.evaluate.paired import Difference
    from kdx.evaluate.sharing import Peers

COMPARISON = "comparison"  # .json and .md in --out
HEADS = ("", "A", "B", "B − A in points (95 %)", "p")


def show_comparison(
    models: Sequence[str],
    samples: ImageSet,
    limit: int | None,
    out: Path | None,
    as_json: bool,
    peers: Peers,
) -> None:
    """Scores all and prints the differences, in the first of `peers`. Raises UsageError for a model given twice."""
    from kdx.core.folders import check_place
    from kdx.evaluate.agreement import compare_evaluations

    check_distinct(models)
    if out:
        check_place(out / f"{COMPARISON}.json")
    evaluations = _evaluate(models, samples, limit, peers)
    if peers.rank:
        return
    first, *others = evaluations
    agreements = [compare_evaluations(first, other) for other in others]
    document = _document(models, evaluations, agreements)
    if as_json:
        print_json(document)
    else:
        click.echo(_text(models, evaluations, agreements))
    if out:  # after what may have taken hours is told: the disk may be full
        save_document(out / COMPARISON, document, md=_markdown(models, evaluations, agreements))
        click.echo(f"table: {out / COMPARISON}.md", err=True)


def check_distinct(models: Sequence[str | Path]) -> None:
    """Raises UsageError for a model that is given twice."""
    from kdx.core.errors import UsageError

    seen: set[str] = set()
    for model in models:
        place = str(model) if "://" in str(model) else str(Path(model).resolve())
        if place in seen:
            raise UsageError("is given twice", where=model, remedy="give each model once")
        seen.add(place)


def _evaluate(models: Sequence[str], samples: ImageSet, limit: int | None, peers: Peers) -> list[Evaluation]:
    """All are opened before the first is scored, which may take long."""
    import kdx
    from kdx.core.progress import silent_stages
    from kdx.evaluate import evaluate_set

    evaluations: list[Evaluation] = []
    with ExitStack() as stack:
        embedders = [stack.enter_context(kdx.load(model)) for model in models]
        for model, embedder in zip(models, embedders, strict=True):
            with (silent_stages if peers.rank else show_progress)(f"scoring {model}") as progress:
                evaluations.append(
                    evaluate_set(embedder, samples, limit=limit, progress=progress, peers=peers)
                )
    return evaluations


def _document(
    models: Sequence[str], evaluations: Sequence[Evaluation], agreements: Sequence[Agreement]
) -> dict[str, Any]:
    return {
        "models": [
            {"path": model, **evaluation.to_dict()}
            for model, evaluation in zip(models, evaluations, strict=True)
        ],
        "comparisons": [
            {"first": models[0], "second": model, **agreement.to_dict()}
            for model, agreement in zip(models[1:], agreements, strict=True)
        ],
    }


def _text(models: Sequence[str], evaluations: Sequence[Evaluation], agreements: Sequence[Agreement]) -> str:
    lines = [_about(evaluations[0])]
    for number, agreement in enumerate(agreements, 1):
        lines += ["", *_names(models, evaluations, number), ""]
        rows = [HEADS, *_rows(agreement)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  ".join(
                cell.rjust(width) if place in (1, 2) else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines += _remarks(agreement)
    return "\n".join(lines)


def _markdown(
    models: Sequence[str], evaluations: Sequence[Evaluation], agreements: Sequence[Agreement]
) -> str:
    lines = [_about(evaluations[0])]
    for number, agreement in enumerate(agreements, 1):
        lines += ["", *(f"- {name}" for name in _names(models, evaluations, number)), ""]
        lines += [f"| {' | '.join(HEADS)} |", "|---|---:|---:|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(agreement)]
        lines += _remarks(agreement)
    return "\n".join(lines) + "\n"


def _about(evaluation: Evaluation) -> str:
    """What was scored, and how."""
    parts = [f"{evaluation.dataset}, {count_of(evaluation.num_images, 'image')}"]
    if evaluation.zero_shot:
        parts.append(f"zero-shot: {evaluation.zero_shot.protocol}")
    if evaluation.retrieval:
        parts.append(f"retrieval: {evaluation.retrieval.protocol}, {evaluation.protocol}")
    return "; ".join(parts)


def _names(models: Sequence[str], evaluations: Sequence[Evaluation], number: int) -> list[str]:
    return [f"{letter}: {_name(models[row], evaluations[row])}" for letter, row in (("A", 0), ("B", number))]


def _name(model: str, evaluation: Evaluation) -> str:
    precision = evaluation.precision or "precision unknown"
    left_out = (
        f", without {count_of(evaluation.bad_images, 'image')} that it cannot read"
        if evaluation.bad_images
        else ""
    )
    return f"{model} ({evaluation.model}, {precision}, {evaluation.image_size} px{left_out})"


def _rows(agreement: Agreement) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    zero_shot, retrieval = agreement.zero_shot, agreement.retrieval
    if zero_shot:
        rows.append((*_row("top-1", zero_shot.top1.difference), _p_text(zero_shot.top1.p_value)))
        if zero_shot.top5:
            rows.append((*_row("top-5", zero_shot.top5.difference), _p_text(zero_shot.top5.p_value)))
        rows.append((*_row("mean per class", zero_shot.mean_per_class), ""))
    if retrieval:
        for name, differences in (
            ("image → text", retrieval.image_to_text),
            ("text → image", retrieval.text_to_image),
            ("both ways", retrieval.mean_recall),
        ):
            rows += [(*_row(f"{name} recall@{k}", each), "") for k, each in differences.items()]
    return rows


def _row(name: str, difference: Difference) -> tuple[str, str, str, str]:
    low, high = map(_points, difference.interval)
    return (
        name,
        _percent(difference.first),
        _percent(difference.second),
        f"{_points(difference.value)} ({low} … {high})",
    )


def _remarks(agreement: Agreement) -> list[str]:
    """Each a paragraph, after an empty line."""
    lines: list[str] = []
    if zero_shot := agreement.zero_shot:
        same, top1 = zero_shot.same_class, zero_shot.top1
        low, high = same.interval
        lines.append(
            f"Top-1 agreement: the same class for {same.hits:,} of {same.total:,} images, "
            f"{_percent(same.value)} ({100 * low:.1f} … {100 * high:.1f}). Right are both for {top1.both:,}, A alone "
            f"for {top1.only_first:,}, B alone for {top1.only_second:,}, neither for {top1.neither:,}."
        )
    if agreement.same_weights:
        lines.append("A and B are the same weights in two forms.")
    return [part for line in lines for part in ("", line)]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    """With a minus sign; what rounds to nothing has none."""
    return f"{100 * fraction:+.1f}".replace("-", "−") if abs(fraction) >= 0.0005 else "0.0"


def _p_text(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 1e-4 else f"{p_value:.0e}"
