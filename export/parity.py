"""The parity gate: is the exported model the trained model?

Three answers: PASS, FAIL, INCONCLUSIVE (the sample cannot decide). Tiers: structure (what the file declares),
shapes (batches, lengths, padding, extremes), numbers (held-out images and texts), decisions (choices, with an exact
bound on how many differ), end_to_end (bytes and strings through a server; export/pair.py). The reference is the
checkpoint in eager fp32, in the first four tiers on the same pixels and tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdx.core.encoder import Encoder, FloatArray
from kdx.core.errors import GateError, InconclusiveError
from kdx.core.folders import Manifest
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance, cpu_count
from kdx.runtime.exported_model import KIND, ExportedModel, read_exported_model
from kdx.runtime.formats import Limits

from .candidate import Candidate, CandidateFault, run_candidate
from .comparison import compare, cosine_distances
from .gate_inputs import GateInputs
from .report import Check, ParityReport, Tier, Verdict

TIMEOUT = 600.0  # seconds for the candidate to answer everything, or SLOWER times the reference's
SLOWER = 10  # a large model may need hours
NOT_SERVED = "it was not served; `kdx export --end-to-end` does"


def check_parity(
    inputs: GateInputs, folder: Path, *, limits: Limits | None = None, progress: Progress = silent
) -> ParityReport:
    """Compares the exported model in `folder` (sealed or not yet) with the answers of the checkpoint it was made from.

    limits: by default those of its format and precision. Raises SetupError when this machine cannot run the exported
    model: then nothing is known of it.
    """
    return _check(
        folder,
        inputs,
        lambda: (inputs, run_candidate(folder, inputs.requests, _timeout(inputs))),
        limits,
        progress,
    )


def check_beside(
    reference: Encoder,
    questions: GateInputs,
    folder: Path,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """The same, with a reference that answers now, in this process, while the candidate does in its own.

    Each gets half of the cores: two processes with one thread each use two cores better than either alone with two.
    Give the reference as many threads as `half_of_the_cores` says. Raises SetupError.
    """

    def answer() -> tuple[GateInputs, dict[str, FloatArray]]:
        with Candidate(folder, questions.requests, num_threads=half_of_the_cores()) as candidate:
            inputs = questions.answered_by(reference)
            return inputs, candidate.answers(_timeout(inputs))

    return _check(folder, questions, answer, limits, progress)


def stop_unless_passed(
    report: ParityReport, out: Path, *, allow_inconclusive: bool, divergence: str = ""
) -> None:
    """Raises GateError with the first fault of a model that is not the trained one, and InconclusiveError.

    divergence: where a failing tower first differs, as the end of the sentence.
    """
    faults = report.findings(Verdict.FAIL)
    if faults:
        tier, check = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise GateError(
            f"the exported model is not the trained one: {tier.name}: {check.sentence()}{more}{divergence}",
            where=out,
            remedy="nothing was written; report the architecture if you did not change the graph",
        )
    undecided = report.findings(Verdict.INCONCLUSIVE)
    if undecided and not allow_inconclusive:
        tier, check = undecided[0]
        raise InconclusiveError(
            f"the parity gate is INCONCLUSIVE: {tier.name}: {check.sentence()}",
            where=out,
            remedy="nothing was written; give a set with more held-out images, or --allow-inconclusive",
        )


def half_of_the_cores() -> int:
    return max(1, cpu_count() // 2)


def judge(
    inputs: GateInputs, answers: dict[str, FloatArray], limits: Limits, *, structure: Tier | None = None
) -> ParityReport:
    """The verdict on what a candidate answered."""
    expected = inputs.expected
    numbers, (distances, decisions) = compare(inputs.embeddings(expected), inputs.embeddings(answers), limits)
    tolerances: list[Check] = []
    for tower in ("image", "text"):
        asked = (numbers[tower]["max_abs"], _probe_difference(expected, answers, f"{tower}/"))
        needed = float(np.max(asked))  # Python's max would drop a NaN
        numbers[tower]["needed_tolerance"] = needed
        if limits.max_abs is not None:
            tolerances.append(Check.at_most(f"{tower} needed_tolerance", needed, limits.max_abs))
        else:  # samples may hold no text as long as the context, and are asked in batches of one size
            distance = _probe_cosine_distance(expected, answers, tower)
            name = f"{tower} cosine_distance of all shapes"
            tolerances.append(Check.at_most(name, distance, limits.cosine_distance))
    return ParityReport(
        (
            structure or Tier("structure", reason="there are no files to look at"),
            Tier("shapes", tuple(_check_shapes(answers, limits))),
            Tier("numbers", (*distances.checks, *tolerances)),
            decisions,
            Tier("end_to_end", reason=NOT_SERVED),
        ),
        {**_header(inputs), **numbers},
    )


def _check(
    folder: Path,
    inputs: GateInputs,
    answer: Callable[[], tuple[GateInputs, dict[str, FloatArray]]],
    limits: Limits | None,
    progress: Progress,
) -> ParityReport:
    model = _read(folder)
    structure = Tier("structure", tuple(model.format.check_structure(folder, model.spec, model.precision)))
    if structure.verdict is Verdict.FAIL:
        return ParityReport((structure,), _header(inputs))
    progress(2, 3, "PyTorch and the exported model answer")
    try:
        answered, answers = answer()
    except CandidateFault as fault:
        runs = Tier("shapes", (Check.holds("runs", str(fault)),))
        return ParityReport((structure, runs), _header(inputs))
    progress(3, 3)
    return judge(answered, answers, limits or model.format.precisions[model.precision], structure=structure)


def _read(folder: Path) -> ExportedModel:
    return read_exported_model(folder, Manifest(KIND, schema=1, created="", digest={}, provenance={}))


def _timeout(inputs: GateInputs) -> float:
    return max(TIMEOUT, SLOWER * inputs.seconds)


def _check_shapes(answers: dict[str, FloatArray], limits: Limits) -> list[Check]:
    everything = np.concatenate(list(answers.values()))
    norms = np.linalg.norm(everything, axis=-1)
    image_row = np.abs(answers["image/batch7"][:1] - answers["image/batch1"]).max()
    text_row = np.abs(answers["text/batch3"][:1] - answers["text/alone"]).max()
    checks = [
        Check.holds("all outputs are finite", "" if np.isfinite(everything).all() else "NaN or infinity"),
        Check.at_most("norm − 1", float(np.abs(norms - 1).max()), limits.norm),
        Check.at_most("an image alone and in a batch", float(image_row), limits.invariance),
        Check.at_most("a text alone and in a batch", float(text_row), limits.invariance),
    ]
    if "text/padded" in answers:
        padding = np.abs(answers["text/batch3"] - answers["text/padded"]).max()
        checks.append(Check.at_most("a text with and without padding", float(padding), limits.invariance))
    return checks


def _probe_difference(expected: dict[str, FloatArray], answers: dict[str, FloatArray], kind: str) -> float:
    """NaN if an answer holds NaN, so that no limit admits it."""
    differences = [np.abs(expected[name] - answers[name]).max() for name in expected if name.startswith(kind)]
    return float(np.max(differences))


def _probe_cosine_distance(
    expected: dict[str, FloatArray], answers: dict[str, FloatArray], tower: str
) -> float:
    """The largest, NaN if an answer holds NaN. Not of black and white: int8 is not calibrated on these."""
    asked = [name for name in expected if name.startswith(f"{tower}/") and name != "image/constant"]
    first, second = (np.concatenate([each[name] for name in asked]) for each in (expected, answers))
    return float(cosine_distances(first, second).max())


def _header(inputs: GateInputs) -> dict[str, Any]:
    return {
        "model_digest": inputs.spec.model_digest,
        "inputs_digest": inputs.digest,
        "provenance": collect_provenance(shipped=True),
    }
