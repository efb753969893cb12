"""How far two models lie apart on the same inputs, and whether they decide alike.

For the parity gate (PyTorch and an exported model on the same pixels and tokens), its end-to-end tier (the same bytes
and strings) and `kdx parity` (any two models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.dimensions import first_dimensions
from kdx.core.encoder import FloatArray
from kdx.runtime.formats import Limits

from .bounds import lower_bound, samples_needed, upper_bound
from .report import Check, Tier, Verdict

WORST = 10
# mean pairwise cosine; 0.50 to 0.64 in small trained CLIPs, 1.000 in a network whose int8 file kept a cosine of 1.0000
# to it and 5 % of its nearest neighbours
ONE_DIRECTION = 0.999


@dataclass(frozen=True)
class Embeddings:
    """What one model makes of the samples, unit rows. images: [N, D]. texts: [M, D]. classes: [C, D], or None.

    paired: text i belongs to image i. narrower: how many first dimensions are an embedding by themselves, but all.
    """

    images: FloatArray
    texts: FloatArray
    classes: FloatArray | None = None
    paired: bool = False
    narrower: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decisions:
    """One kind of choice, made by both models. regret: [Q] how much higher the reference scores its own choice."""

    name: str
    regret: npt.NDArray[np.float32]
    differ: npt.NDArray[np.bool_]


def compare(
    reference: Embeddings, candidate: Embeddings, limits: Limits
) -> tuple[dict[str, Any], list[Tier]]:
    """Numbers for the report and the tiers `numbers` and `decisions`."""
    towers = (
        ("image", reference.images, candidate.images),
        ("text", reference.texts, candidate.texts),
    )
    numbers: dict[str, Any] = {name: distances(first, second) for name, first, second in towers}
    numbers["similarity_max_abs"] = float(
        np.abs(reference.images @ reference.texts.T - candidate.images @ candidate.texts.T).max()
    )
    numbers["worst_images"] = worst(reference.images, candidate.images)
    numbers["worst_texts"] = worst(reference.texts, candidate.texts)
    if reference.narrower:
        numbers["at_widths"] = {
            str(width): {name: cut_distances(first, second, width) for name, first, second in towers}
            for width in reference.narrower
        }
    decisions = decide(reference, candidate)
    numbers |= _first_counts(decisions[0], limits) | {
        "decisions": [_counts(each, limits) for each in decisions]
    }
    checks = [
        *(check for name, *_ in towers for check in check_distances(name, numbers[name], limits)),
        *(check_direction(*tower) for tower in towers),
        *check_widths(numbers.get("at_widths", {}), limits),
    ]
    note = one_direction(reference)
    tiers = [
        Tier("numbers", tuple(_with_note(check, note) for check in checks)),
        Tier("decisions", tuple(_with_note(check_agreement(each, limits), note) for each in decisions)),
    ]
    return numbers, tiers


def distances(reference: FloatArray, candidate: FloatArray) -> dict[str, float]:
    """Of matching rows. centred: after both lost the reference's mean, which is what is left where all rows share a
    direction and every cosine is near 1."""
    distance = cosine_distances(reference, candidate)
    centred = centred_distances(reference, candidate)
    return {
        "num_samples": len(reference),
        "max_abs": float(np.abs(reference - candidate).max()),
        "min_cosine": float(1 - distance.max()),
        "cosine_distance_p50": float(np.median(distance)),
        "cosine_distance_p99": float(np.quantile(distance, 0.99)),
        "centred_cosine_distance_p50": float(np.median(centred)),
        "centred_cosine_distance_p99": float(np.quantile(centred, 0.99)),
        "mean_pairwise_cosine": mean_pairwise_cosine(reference),
    }


def cosine_distances(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """1 − cosine of matching rows, by their norms: those of float32 unit rows are off by some 1e-7, which is more than
    an fp32 export's angles come to."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return 1 - np.einsum("nd,nd->n", first, second) / np.maximum(norms, 1e-12)


def centred_distances(reference: FloatArray, candidate: FloatArray) -> npt.NDArray[np.float64]:
    """The same after both lost the reference's mean, which hides the rest if all rows share it."""
    if len(reference) < 2:  # nothing is left of a single row without its mean
        return np.zeros(len(reference))
    mean = reference.mean(axis=0, dtype=np.float64)
    return cosine_distances(reference - mean, candidate - mean)


def check_distances(tower: str, numbers: dict[str, float], limits: Limits) -> list[Check]:
    """fp32 is judged on the largest difference of a component; others, which round, on angles."""
    asked = (
        ("max_abs", numbers["max_abs"], limits.max_abs),
        (
            "centred_cosine_distance_p50",
            numbers["centred_cosine_distance_p50"],
            limits.centred_cosine_distance,
        ),
        ("cosine_distance", 1 - numbers["min_cosine"], limits.cosine_distance),
    )
    return [
        Check.at_most(f"{tower} {name}", value, limit) for name, value, limit in asked if limit is not None
    ]


def cut_distances(reference: FloatArray, candidate: FloatArray, width: int) -> dict[str, float]:
    """Angles between the first `width` dimensions of matching rows: these may be off where the whole rows are not."""
    first, second = (first_dimensions(rows, width) for rows in (reference, candidate))
    return {
        "min_cosine": float(1 - cosine_distances(first, second).max()),
        "centred_cosine_distance_p50": float(np.median(centred_distances(first, second))),
    }


def check_widths(at_widths: dict[str, dict[str, dict[str, float]]], limits: Limits) -> list[Check]:
    """By the limits of the whole embedding, of angles alone."""
    checks: list[Check] = []
    for width, towers in at_widths.items():
        for tower, numbers in towers.items():
            name = f"{tower} cosine_distance of the first {width} dimensions"
            checks.append(Check.at_most(name, 1 - numbers["min_cosine"], limits.cosine_distance))
            if limits.centred_cosine_distance is not None:
                centred = numbers["centred_cosine_distance_p50"]
                name = f"{tower} centred_cosine_distance_p50 of the first {width} dimensions"
                checks.append(Check.at_most(name, centred, limits.centred_cosine_distance))
    return checks


def check_direction(tower: str, reference: FloatArray, candidate: FloatArray) -> Check:
    """FAIL for a model that gives every input nearly the same embedding, unless the reference does so too."""
    name = f"{tower} mean pairwise cosine"
    cosine = mean_pairwise_cosine(candidate)
    if cosine <= ONE_DIRECTION or mean_pairwise_cosine(reference) > ONE_DIRECTION:
        return Check(name, Verdict.PASS, cosine)
    return Check(
        name,
        Verdict.FAIL,
        cosine,
        ONE_DIRECTION,
        "the embeddings lie in one direction, and the reference's do not",
    )


def one_direction(reference: Embeddings) -> str:
    """What must be known where a reference collapsed: every cosine is then near 1, whatever is compared."""
    towers = (("image", reference.images), ("text", reference.texts))
    found = {name: cosine for name, rows in towers if (cosine := mean_pairwise_cosine(rows)) > ONE_DIRECTION}
    return "; ".join(
        f"the reference's own {name} embeddings lie in one direction (mean pairwise cosine {cosine:.5f})"
        for name, cosine in found.items()
    )


def mean_pairwise_cosine(rows: FloatArray) -> float:
    """Of different rows, which are unit vectors: from the length of their mean. 0 for a single row."""
    count = len(rows)
    if count < 2:
        return 0.0
    mean = rows.mean(axis=0, dtype=np.float64)
    return float((count * mean @ mean - 1) / (count - 1))


def decide(reference: Embeddings, candidate: Embeddings) -> list[Decisions]:
    """The class of each image, where there are classes; its text; the image of each text, where they are pairs.

    Where there are classes, texts that do not belong to the images are their prompts and decide nothing more.
    """
    made: list[Decisions] = []
    if reference.classes is not None and candidate.classes is not None:
        made.append(
            _choose(
                "class of an image",
                reference.images @ reference.classes.T,
                candidate.images @ candidate.classes.T,
            )
        )
    if reference.paired or not made:
        scores, answers = reference.images @ reference.texts.T, candidate.images @ candidate.texts.T
        made.append(_choose("text of an image", scores, answers))
        if reference.paired:
            made.append(_choose("image of a text", scores.T, answers.T))
    return made


def check_agreement(decisions: Decisions, limits: Limits) -> Check:
    """PASS if at most `margin` of the choices differ, FAIL if more do, each with 95 % confidence; else INCONCLUSIVE.

    A choice differs if the reference prefers its own by more than `tie`: below that it is no decision but rounding.
    All kinds of decisions have to pass, so that none needs a stricter confidence for the company of the others.
    """
    samples, differing = len(decisions.regret), _differing(decisions, limits)
    upper, margin = upper_bound(differing, samples), limits.margin
    name = f"{decisions.name}: {differing} of {samples} differ"
    if upper <= margin:
        return Check(name, Verdict.PASS, upper, margin)
    if lower_bound(differing, samples) > margin:
        return Check(name, Verdict.FAIL, upper, margin)
    needed = samples_needed(differing, margin)
    found = "no more than allowed differ" if differing else "none differs"
    detail = f"{found}, but {samples:,} samples are too few to be sure: {needed - samples:,} are missing"
    return Check(name, Verdict.INCONCLUSIVE, upper, margin, detail)


def samples_missing(samples: int, limits: Limits) -> int:
    """How many more the decisions need to pass even if none differs; 0 if these may do. Known before any work."""
    return max(0, samples_needed(0, limits.margin) - samples)


def worst(reference: FloatArray, candidate: FloatArray) -> list[int]:
    """Row numbers of the samples that differ most: what users wrote stays out of the report, which is handed on."""
    return np.abs(reference - candidate).max(axis=-1).argsort()[::-1][:WORST].tolist()


def _choose(name: str, scores: FloatArray, answers: FloatArray) -> Decisions:
    """scores, answers: [Q, K] of reference and candidate."""
    rows = np.arange(len(scores))
    own, other = scores.argmax(axis=-1), answers.argmax(axis=-1)
    return Decisions(name, scores[rows, own] - scores[rows, other], own != other)


def _differing(decisions: Decisions, limits: Limits) -> int:
    return int((decisions.regret > limits.tie).sum())


def _counts(decisions: Decisions, limits: Limits) -> dict[str, Any]:
    samples, differing = len(decisions.regret), _differing(decisions, limits)
    return {
        "name": decisions.name,
        "num_samples": samples,
        "differ": differing,
        "differ_at_ties": int(decisions.differ.sum()) - differing,
        "upper_bound": upper_bound(differing, samples),
    }


def _first_counts(decisions: Decisions, limits: Limits) -> dict[str, Any]:
    counts = _counts(decisions, limits)
    return {
        "top1_agreement": 1 - counts["differ"] / counts["num_samples"],
        "top1_disagreements": counts["differ"],
        "disagreement_upper_bound": counts["upper_bound"],
        "num_samples": counts["num_samples"],
    }


def _with_note(check: Check, note: str) -> Check:
    if not note or check.verdict is not Verdict.FAIL:
        return check
    detail = f"{check.detail}; {note}" if check.detail else note
    return Check(check.name, check.verdict, check.value, check.limit, detail)
