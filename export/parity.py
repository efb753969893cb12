"""The parity gate: is the exported model the trained model?

Three answers: PASS, FAIL, INCONCLUSIVE (the sample cannot decide). Tiers: structure (what the file declares),
shapes (batches, lengths, padding, extremes), numbers (held-out images and texts), decisions (top-1 choices with
an exact bound). The reference is the checkpoint in eager fp32 on the same pixels and tokens. The end-to-end tier,
bytes through a server, belongs to serving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import FloatArray
from kdx.core.errors import GateError
from kdx.core.folders import Manifest
from kdx.core.progress import Progress, silent
from kdx.core.prompts import class_vectors
from kdx.core.provenance import collect_provenance
from kdx.runtime.exported_model import KIND, read_exported_model
from kdx.runtime.formats import Limits

from .bounds import lower_bound, samples_needed, upper_bound
from .candidate import CandidateFault, run_candidate
from .gate_inputs import GateInputs
from .report import Check, ParityReport, Tier, Verdict

TIMEOUT = 600.0  # seconds for the candidate to answer everything, or SLOWER times the reference's
SLOWER = 10  # a large model may need hours
WORST = 10


def check_parity(
    inputs: GateInputs, folder: Path, *, limits: Limits | None = None, progress: Progress = silent
) -> ParityReport:
    """Compares the exported model in `folder` (sealed or not yet) with the answers of the checkpoint it was made from.

    limits: by default those of its format and precision. Raises SetupError when this machine cannot run the exported
    model: then nothing is known of it.
    """
    model = read_exported_model(folder, Manifest(KIND, schema=1, created="", digest={}, provenance={}))
    limits = limits or model.format.precisions[model.precision]
    structure = Tier("structure", tuple(model.format.check_structure(folder, model.spec, model.precision)))
    if structure.verdict is Verdict.FAIL:
        return ParityReport((structure,), _header(inputs))
    progress(2, 3, "candidate")
    try:
        answers = run_candidate(folder, inputs.requests, max(TIMEOUT, SLOWER * inputs.seconds))
    except CandidateFault as fault:
        runs = Tier("shapes", (Check.holds("runs", str(fault)),))
        return ParityReport((structure, runs), _header(inputs))
    progress(3, 3)
    return judge(inputs, answers, limits, structure=structure)


def stop_at_fault(report: ParityReport, out: Path) -> None:
    """Raises GateError with the first fault, for a model that is not the trained one."""
    faults = report.findings(Verdict.FAIL)
    if faults:
        tier, check = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise GateError(
            f"the exported model is not the trained one: {tier.name}: {check.sentence()}{more}",
            where=out,
            remedy="nothing was written; report the architecture if you did not change the graph",
        )


def judge(
    inputs: GateInputs, answers: dict[str, FloatArray], limits: Limits, *, structure: Tier | None = None
) -> ParityReport:
    """The verdict on what a candidate answered."""
    expected = inputs.expected
    image, text = (_gather(expected, kind) for kind in ("image/sample", "text/sample"))
    image_answer, text_answer = (_gather(answers, kind) for kind in ("image/sample", "text/sample"))
    numbers = {
        **_header(inputs),
        "image": _compare(image, image_answer, _probe_difference(expected, answers, "image/")),
        "text": _compare(text, text_answer, _probe_difference(expected, answers, "text/")),
        "similarity_max_abs": float(np.abs(image @ text.T - image_answer @ text_answer.T).max()),
        "worst_images": _worst(image, image_answer),
        "worst_texts": _worst(text, text_answer),
    }
    number_checks = [
        Check.at_most(f"{tower} {name}", value, limit)
        for tower in ("image", "text")
        for name, value, limit in (
            ("max_abs", numbers[tower]["max_abs"], limits.max_abs),
            ("needed_tolerance", numbers[tower]["needed_tolerance"], limits.max_abs),
            ("cosine_distance", 1 - numbers[tower]["min_cosine"], limits.cosine_distance),
        )
    ]
    targets = text, text_answer
    if inputs.num_templates:
        targets = tuple(
            class_vectors(_gather(found, "text/class"), inputs.num_templates) for found in (expected, answers)
        )
    decisions, counts = _decide(
        (image @ targets[0].T).argmax(-1), (image_answer @ targets[1].T).argmax(-1), limits
    )
    return ParityReport(
        (
            structure or Tier("structure", reason="there are no files to look at"),
            Tier("shapes", tuple(_check_shapes(answers, limits))),
            Tier("numbers", tuple(number_checks)),
            Tier("decisions", (decisions,)),
            Tier("end_to_end", reason="bytes through a server are compared when the model is served"),
        ),
        {**numbers, **counts},
    )


def _check_shapes(answers: dict[str, FloatArray], limits: Limits) -> list[Check]:
    everything = np.concatenate(list(answers.values()))
    norms = np.linalg.norm(everything, axis=-1)
    image_row = np.abs(answers["image/batch7"][:1] - answers["image/batch1"]).max()
    text_row = np.abs(answers["text/batch3"][:1] - answers["text/alone"]).max()
    padding = np.abs(answers["text/batch3"] - answers["text/padded"]).max()
    return [
        Check.holds("all outputs are finite", "" if np.isfinite(everything).all() else "NaN or infinity"),
        Check.at_most("norm − 1", float(np.abs(norms - 1).max()), limits.norm),
        Check.at_most("an image alone and in a batch", float(image_row), limits.max_abs),
        Check.at_most("a text alone and in a batch", float(text_row), limits.max_abs),
        Check.at_most("a text with and without padding", float(padding), limits.max_abs),
    ]


def _decide(
    reference: npt.NDArray[np.intp], candidate: npt.NDArray[np.intp], limits: Limits
) -> tuple[Check, dict[str, Any]]:
    """Top-1 choices: PASS if at most `margin` may differ with 95 % confidence, FAIL if more surely does."""
    samples, differing = len(reference), int((reference != candidate).sum())
    upper = upper_bound(differing, samples)
    counts = {
        "top1_agreement": 1 - differing / samples,
        "top1_disagreements": differing,
        "disagreement_upper_bound": upper,
        "num_samples": samples,
    }
    name = f"top-1 disagreement, {differing} of {samples}"
    if upper <= limits.margin:
        return Check(name, Verdict.PASS, upper, limits.margin), counts
    if lower_bound(differing, samples) > limits.margin:
        return Check(name, Verdict.FAIL, upper, limits.margin), counts
    needed = samples_needed(differing, limits.margin)
    missing = (
        f"no more than allowed was found, but {samples:,} images are too few to be sure; {needed:,} would do"
        if differing
        else f"no difference was found, but {samples:,} images are too few to be sure; {needed:,} would do"
    )
    return Check(name, Verdict.INCONCLUSIVE, upper, limits.margin, missing), counts


def _compare(reference: FloatArray, candidate: FloatArray, probe_difference: float) -> dict[str, float]:
    """needed_tolerance: the largest difference of any component, probes of shapes and extremes included."""
    distance = 1 - np.einsum("nd,nd->n", reference.astype(np.float64), candidate.astype(np.float64))
    max_abs = float(np.abs(reference - candidate).max())
    return {
        "num_samples": len(reference),
        "max_abs": max_abs,
        "needed_tolerance": max(max_abs, probe_difference),
        "min_cosine": float(1 - distance.max()),
        "cosine_distance_p50": float(np.median(distance)),
        "cosine_distance_p99": float(np.quantile(distance, 0.99)),
        "centred_cosine_distance_p99": float(np.quantile(_centred_distance(reference, candidate), 0.99)),
    }


def _centred_distance(reference: FloatArray, candidate: FloatArray) -> npt.NDArray[np.float64]:
    """1 − cosine after removing the reference's mean: what is left when all embeddings share a direction."""
    mean = reference.mean(axis=0, dtype=np.float64)
    first, second = reference - mean, candidate - mean
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return 1 - np.einsum("nd,nd->n", first, second) / np.maximum(norms, 1e-12)


def _probe_difference(expected: dict[str, FloatArray], answers: dict[str, FloatArray], kind: str) -> float:
    """NaN if an answer holds NaN, so that no limit admits it."""
    differences = [np.abs(expected[name] - answers[name]).max() for name in expected if name.startswith(kind)]
    return float(np.max(differences))


def _gather(arrays: dict[str, FloatArray], kind: str) -> FloatArray:
    return np.concatenate([array for name, array in sorted(arrays.items()) if name.startswith(kind)])


def _worst(reference: FloatArray, candidate: FloatArray) -> list[int]:
    """Row numbers of the samples that differ most: what users wrote stays out of the report, which is handed on."""
    return np.abs(reference - candidate).max(axis=-1).argsort()[::-1][:WORST].tolist()


def _header(inputs: GateInputs) -> dict[str, Any]:
    return {
        "model_digest": inputs.spec.model_digest,
        "inputs_digest": inputs.digest,
        "provenance": collect_provenance(shipped=True),
    }
