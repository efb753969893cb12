"""From a Checkpoint to an ExportedModel: build the encoders, pass the gate, seal the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from kdx.core.errors import GateError, UsageError
from kdx.core.folders import sealed_folder
from kdx.core.progress import Progress, silent
from kdx.core.tokenizer import VOCABULARY
from kdx.models.checkpoint import Checkpoint
from kdx.runtime.exported_model import KIND, ExportedModel, open_exported_model

from .onnx import export_image_encoder, export_text_encoder
from .parity import Limits, check_parity
from .report import ParityReport, Verdict
from .samples import ParitySamples

Builder = Callable[[Checkpoint, Path], None]  # writes image_encoder.* and text_encoder.* into a folder


def _build_onnx(checkpoint: Checkpoint, folder: Path) -> None:
    export_image_encoder(checkpoint, folder / "image_encoder.onnx")
    export_text_encoder(checkpoint, folder / "text_encoder.onnx")


FORMATS: dict[str, Builder] = {"onnx": _build_onnx}


def check_format(format: str) -> None:
    """Raises UsageError for a format that kdx does not export."""
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}", remedy=f"known formats: {', '.join(FORMATS)}")


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    *,
    format: str,
    samples: ParitySamples,
    limits: Limits | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportedModel:
    """Exports, checks and seals. Raises GateError when parity fails; nothing is left at `out` then.

    An INCONCLUSIVE gate lets the model pass and says so in parity.json.
    """
    check_format(format)
    inputs = {"checkpoint": checkpoint.spec.model_digest}
    with sealed_folder(out, KIND, overwrite=overwrite, inputs=inputs, shipped=True) as folder:
        progress(0, 3, f"building {format}")
        FORMATS[format](checkpoint, folder)
        checkpoint.tokenizer.save(folder / VOCABULARY)
        config = {"format": format, "spec": checkpoint.spec.to_dict()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        report = check_parity(checkpoint, folder, samples, limits=limits, progress=progress)
        _stop_at_fault(report, out)
        (folder / "parity.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    return open_exported_model(out)


def _stop_at_fault(report: ParityReport, out: Path) -> None:
    faults = report.findings(Verdict.FAIL)
    if faults:
        tier, check = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise GateError(
            f"the exported model is not the trained one: {tier.name}: {check.sentence()}{more}",
            where=out,
            remedy="nothing was written; report the architecture if you did not change the graph",
        )
