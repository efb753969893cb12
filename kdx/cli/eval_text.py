"""What `kdx eval` prints of one model: every number with its interval, and with what it stands on."""

from __future__ import annotations

from kdx.core.spelling import count_of
from kdx.evaluate import (
    Direction,
    Estimate,
    Evaluation,
    Proportion,
    RetrievalResult,
    WidthScores,
    ZeroShotResult,
)


def evaluation_text(evaluation: Evaluation) -> str:
    precision = evaluation.precision or "precision unknown"
    lines = [
        f"{evaluation.model} ({precision}, {evaluation.image_size} px), {evaluation.dataset}, "
        f"{count_of(evaluation.num_images, 'image')}"
    ]
    if evaluation.bad_images:
        lines.append(f"left out: {count_of(evaluation.bad_images, 'image')} that cannot be read or decoded")
    if evaluation.skipped_samples:
        lines.append(f"left out: {count_of(evaluation.skipped_samples, 'malformed sample')} of the set")
    if evaluation.zero_shot:
        lines += _zero_shot(evaluation.zero_shot)
    if evaluation.retrieval:
        lines += _retrieval(evaluation.retrieval, evaluation.protocol)
    if evaluation.at_widths:
        lines += ["", "by how many of the first dimensions, from the same embeddings"]
        lines += [_at_width(each) for each in evaluation.at_widths]
    return "\n".join(lines)


def _at_width(scores: WidthScores) -> str:
    parts = [f"  {scores.dimensions:>5}"]
    if scores.zero_shot:
        parts.append(f"top-1 {_percent(scores.zero_shot.top1)}")
    if scores.retrieval:
        recalls = scores.retrieval.mean_recall
        parts.append(f"mean recall@1 {100 * recalls[1]:.1f} %, @5 {100 * recalls[5]:.1f} %")
    return "  ".join(parts)


def _zero_shot(result: ZeroShotResult) -> list[str]:
    mean = Estimate(result.mean_per_class, result.mean_per_class_interval)
    return [
        "",
        f"zero-shot: {result.protocol}",
        f"  top-1           {_percent(result.top1)}",
        *([f"  top-5           {_percent(result.top5)}"] if result.top5 else []),
        f"  mean per class  {_percent(mean)}",
    ]


def _retrieval(result: RetrievalResult, captions: str) -> list[str]:
    return [
        "",
        f"retrieval: {result.protocol}, {captions}",
        *_direction("image → text", result.to_text),
        *_direction("text → image", result.to_image),
    ]


def _direction(name: str, direction: Direction) -> list[str]:
    return [
        *(f"  {name}  recall@{k:<2}    {_percent(recall)}" for k, recall in direction.recalls.items()),
        f"  {name}  mean rank    {_rank(direction.mean_rank)}",
        f"  {name}  median rank  {_rank(direction.median_rank)}",
    ]


def _percent(share: Proportion | Estimate) -> str:
    low, high = (100 * bound for bound in share.interval)
    return f"{100 * share.value:5.1f} %  ({low:.1f} … {high:.1f})"


def _rank(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{estimate.value:7,.1f}  ({low:,.1f} … {high:,.1f})"
