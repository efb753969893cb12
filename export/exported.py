"""From a Checkpoint to an ExportedModel: build the encoders, pass the gate, seal the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdx.core.folders import sealed_folder
from kdx.core.progress import Progress, silent
from kdx.core.provenance import package_versions
from kdx.evaluate.speed import measure_speed
from kdx.models.checkpoint import Checkpoint
from kdx.runtime.exported_model import KIND, ExportedModel, open_exported_model
from kdx.runtime.formats import Limits, choose

from .calibration import check_disjoint
from .gate import Serve, check_enough, pass_gate
from .job import BuildJob
from .report import Verdict
from .samples import ParitySamples
from .sizes import model_sizes


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    *,
    samples: ParitySamples,
    format: str = "onnx",
    precision: str | None = None,
    target: str | None = None,
    calibration: ParitySamples | None = None,
    limits: Limits | None = None,
    allow_inconclusive: bool = False,
    serve: Serve | None = None,
    measure: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportedModel:
    """Exports, checks and seals.

    precision, target: by default the format's first. samples: held out, for the gate. calibration: of the train split,
    for a precision that needs it. limits: by default those of the format and precision.
    allow_inconclusive: keep a model that the samples are too few to judge; the manifest then says that it was allowed.
    serve: serves the exported model at a path, for the end-to-end tier; without it that tier is SKIPPED.
    measure: note in the manifest how fast it is here and what memory it takes, as kdx/evaluate/speed.py does in a few
    seconds.

    Raises UsageError for a format, precision or target that there is not; SetupError if this machine cannot build or
    run it; GateError when parity fails, InconclusiveError when the samples cannot decide, if that is known before any
    work: then nothing is left at `out`.
    """
    format_, precision, target = choose(format, precision, target)
    if calibration is not None:
        check_disjoint(calibration, samples)
    limits = limits or format_.precisions[precision]
    if not allow_inconclusive:
        check_enough(samples, limits)
    inputs = {"checkpoint": checkpoint.spec.model_digest}
    fields: dict[str, Any] = {"format": format, "precision": precision, "target": target}
    with sealed_folder(out, KIND, overwrite=overwrite, inputs=inputs, fields=fields, shipped=True) as folder:
        progress(0, 3, f"building {format}")
        options = format_.build(BuildJob(checkpoint, folder, precision, target, calibration, progress))
        sizes = model_sizes(checkpoint, folder)
        checkpoint.tokenizer.save(folder)
        config = {**fields, "spec": checkpoint.spec.to_dict(), "options": options}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        report = pass_gate(
            checkpoint,
            folder,
            samples,
            limits,
            out=out,
            allow_inconclusive=allow_inconclusive,
            serve=serve,
            progress=progress,
        )
        fields["inconclusive_allowed"] = report.verdict is Verdict.INCONCLUSIVE
        (folder / "parity.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        fields |= {"tools": package_versions(), "sizes": sizes}
        if measure:
            progress(2, 3, "measuring its speed")
            fields["speed"] = measure_speed(folder, checkpoint.spec)
    return open_exported_model(out)
