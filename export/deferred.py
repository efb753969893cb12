"""From a Checkpoint to a DeferredExport: typed graphs, a build plan, and the gate's questions with PyTorch's answers.

The machine with the GPU builds and gates from it by `kdx.export.finishing`, without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdx.core.errors import GateError, SetupError
from kdx.core.folders import sealed_folder
from kdx.core.progress import Progress, silent
from kdx.core.provenance import package_versions
from kdx.models.checkpoint import Checkpoint
from kdx.runtime.deferred import GATE_INPUTS, KIND, DeferredExport, check_deferrable, open_deferred
from kdx.runtime.formats import choose, find_format
from kdx.runtime.tensorrt import RTX, import_tensorrt
from kdx.runtime.torch import TorchEncoder

from .calibration import check_disjoint
from .gate import check_enough
from .gate_inputs import prepare
from .job import BuildJob
from .report import Verdict
from .samples import ParitySamples
from .sizes import model_sizes
from .tensorrt import TOWERS, build_engine, parse_alone, typed_graphs
from .tensorrt_plan import BuildPlan, default_plan


def defer_export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    format: str,
    samples: ParitySamples,
    precision: str | None = None,
    target: str | None = None,
    calibration: ParitySamples | None = None,
    allow_inconclusive: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> DeferredExport:
    """Seals what another machine needs to build, gate and seal the exported model.

    Where TensorRT-RTX is installed, its parser, and for `trt-rtx` its builder too, prove that the graphs are taken; it
    needs no GPU for that. The manifest's field `proved_by` says by which version, or null.

    Raises UsageError for a format that is not deferred, a precision or target that there is not, or a graph that
    NVIDIA's parser refuses; InconclusiveError for samples on which nothing could pass; GateError for a graph that is
    not what it should be.
    """
    check_deferrable(format)
    format_, precision, target = choose(format, precision, target, here=False)
    if not allow_inconclusive:
        check_enough(samples, format_.precisions[precision])
    spec = checkpoint.spec
    inputs = {"checkpoint": spec.model_digest}
    fields: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "target": target,
        "inconclusive_allowed": allow_inconclusive,
    }
    if calibration is not None:
        check_disjoint(calibration, samples)
    with sealed_folder(out, KIND, overwrite=overwrite, inputs=inputs, fields=fields, shipped=True) as folder:
        progress(0, 3, "writing the graphs")
        made = typed_graphs(BuildJob(checkpoint, folder, precision, target, calibration, progress), folder)
        sizes = model_sizes(checkpoint, folder)
        plan = default_plan(spec)
        for check in find_format("onnx").check_structure(folder, spec, precision):
            if check.verdict is Verdict.FAIL:
                raise GateError(
                    f"the graphs are not the trained model: {check.sentence()}",
                    where=out,
                    remedy="nothing was written; report the architecture",
                )
        progress(1, 3, "asking NVIDIA's parser")
        fields["proved_by"] = _prove(folder, plan, build=format == RTX)
        checkpoint.tokenizer.save(folder)
        config = {
            "format": format,
            "precision": precision,
            "target": target,
            "spec": spec.to_dict(),
            "plan": plan.to_dict(),
            "graphs": made,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        progress(2, 3, "reference")
        with TorchEncoder(checkpoint) as reference:
            prepare(reference, samples).save(folder / GATE_INPUTS)
        fields |= {"tools": package_versions(), "sizes": sizes}
    return open_deferred(out)


def _prove(folder: Path, plan: BuildPlan, *, build: bool) -> str | None:
    """The version of TensorRT-RTX that takes both graphs; None where it is not installed."""
    try:
        trt = import_tensorrt(RTX)
    except SetupError:
        return None
    for tower, profiles in zip(TOWERS, (plan.image, plan.text), strict=True):
        if build:
            build_engine(trt, folder / f"{tower}.onnx", profiles, plan, timings=None)
        else:
            parse_alone(trt, folder / f"{tower}.onnx")
    return f"{trt.__name__} {trt.__version__}, {'parsed and built' if build else 'parsed'}"
