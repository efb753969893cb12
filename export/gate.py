"""The gate in an export: it runs beside the reference, says where a failing model first differs, and stops it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from kdx.core.encoder import Embedder
from kdx.core.errors import InconclusiveError
from kdx.core.folders import sealed_folder
from kdx.core.progress import Progress, silent
from kdx.core.scratch import scratch_folder
from kdx.models.checkpoint import Checkpoint
from kdx.runtime.exported_model import KIND
from kdx.runtime.formats import Limits
from kdx.runtime.torch import TorchEncoder

from .comparison import samples_missing
from .divergence import first_divergence
from .gate_inputs import GateInputs, questions
from .pair import check_end_to_end, embed_samples
from .parity import check_beside, half_of_the_cores, stop_unless_passed
from .report import ParityReport, Verdict
from .samples import ParitySamples

Serve = Callable[[Path], AbstractContextManager[Embedder]]  # an exported model → the served one, while inside


def pass_gate(
    checkpoint: Checkpoint,
    folder: Path,
    samples: ParitySamples,
    limits: Limits,
    *,
    out: Path,
    allow_inconclusive: bool = False,
    serve: Serve | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """The report on the exported model in `folder`, which is to lie at `out` and is not yet sealed.

    serve: serves an exported model, for the end-to-end tier; without it that tier is SKIPPED. Raises GateError when
    parity fails, InconclusiveError when the samples cannot decide and that is not allowed, SetupError.
    """
    progress(1, 3, "preprocessing")
    with TorchEncoder(checkpoint) as reference:
        asked = questions(reference, samples)
        with _torch_threads(half_of_the_cores()):
            report = check_beside(reference, asked, folder, limits=limits, progress=progress)
        if serve and report.verdict is not Verdict.FAIL:
            progress(3, 3, "served")
            report = _with_end_to_end(report, reference, samples, folder, limits, serve)
    divergence = _divergence(report, checkpoint, asked, folder) if report.verdict is Verdict.FAIL else ""
    stop_unless_passed(report, out, allow_inconclusive=allow_inconclusive, divergence=divergence)
    return report


def check_enough(samples: ParitySamples, limits: Limits) -> None:
    """Raises InconclusiveError for samples on which nothing could pass, even if no decision differs. Call before long
    work."""
    if missing := samples_missing(len(samples.images), limits):
        raise InconclusiveError(
            f"{len(samples.images):,} images are too few to show that at most {limits.margin:.1%} of decisions differ, "
            f"even if none does: {missing:,} are missing",
            remedy="give a set with more held-out images, or go on without that certainty with --allow-inconclusive",
        )


def _with_end_to_end(
    report: ParityReport,
    reference: TorchEncoder,
    samples: ParitySamples,
    folder: Path,
    limits: Limits,
    serve: Serve,
) -> ParityReport:
    """The report with its last tier: the model is sealed at a place of its own and served from there."""
    with scratch_folder() as temporary:
        copy = temporary / "exported"
        fields = {"inconclusive_allowed": True}  # nobody but this test is served
        with sealed_folder(copy, KIND, fields=fields, shipped=True) as inside:
            shutil.copytree(folder, inside, dirs_exist_ok=True)
            (inside / "parity.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
        with serve(copy) as served:
            tier, numbers = check_end_to_end(
                embed_samples(reference, samples), embed_samples(served, samples), limits
            )
    return replace(
        report, tiers=(*report.tiers[:-1], tier), numbers={**report.numbers, "end_to_end": numbers}
    )


def _divergence(report: ParityReport, checkpoint: Checkpoint, asked: GateInputs, folder: Path) -> str:
    """Where a tower that fails in numbers leaves PyTorch's, as far as one can tell; its name at least."""
    failing = [check.name for tier, check in report.findings(Verdict.FAIL) if tier.name == "numbers"]
    tower = next((name for name in ("image", "text") if any(f.startswith(f"{name} ") for f in failing)), None)
    if tower is None:
        return ""
    sample = asked.sample(tower, report.numbers[f"worst_{tower}s"][0])
    found = first_divergence(checkpoint, folder / f"{tower}_encoder.onnx", tower, sample)
    if found is None:
        return f"; it is the {tower} encoder"
    layer, after, before = found
    return f"; the {tower} encoder first differs at {layer} (by {after:.2g} of its output, by {before:.2g} before)"


@contextlib.contextmanager
def _torch_threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
