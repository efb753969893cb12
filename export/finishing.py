"""From a DeferredExport to an ExportedModel, on the machine with the GPU: build, gate, seal. No torch.

`finish` is what a server calls at its first start, through `kdx.runtime.deferred.finish`; `finish_export` is
`kdx export --finish`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdx
from kdx.core.cache import alone
from kdx.core.digests import file_digest, value_digest
from kdx.core.errors import DataError
from kdx.core.folders import sealed_folder
from kdx.core.progress import Progress, silent
from kdx.core.provenance import package_versions
from kdx.core.tokenizers import open_tokenizer
from kdx.evaluate.speed import measure_speed
from kdx.runtime.cuda import find_gpu, import_cuda
from kdx.runtime.deferred import DeferredExport, open_deferred
from kdx.runtime.exported_model import KIND, ExportedModel, open_exported_model
from kdx.runtime.tensorrt import check_gpu, import_tensorrt
from kdx.runtime.trusted_plans import check_trusted

from .gate_inputs import GateInputs
from .parity import check_parity, stop_unless_passed
from .report import Verdict
from .tensorrt import build_engines
from .tensorrt_plan import BuildPlan


def finish(deferred: Path, cache: Path) -> Path:
    """As `kdx.runtime.deferred.finish` says."""
    source = open_deferred(deferred)
    place = cache / "engines" / _key(source)
    with alone(place.with_suffix(".lock")):
        if not _is_whole(place):
            _finish(source, place, overwrite=True)
    return place


def finish_export(
    deferred: Path,
    out: Path,
    *,
    allow_inconclusive: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportedModel:
    """Builds the engines of a deferred export for the GPU of this machine, gates them and seals the exported model.

    allow_inconclusive: keep a model that the samples are too few to judge, also if its maker has not allowed that.
    Raises DataError for a damaged folder, SetupError for what the machine lacks, UsageError for a graph that TensorRT
    does not take, GateError when parity fails; nothing is left at `out` then.
    """
    return _finish(
        open_deferred(deferred),
        out,
        allow_inconclusive=allow_inconclusive,
        overwrite=overwrite,
        progress=progress,
    )


def _finish(
    source: DeferredExport,
    out: Path,
    *,
    allow_inconclusive: bool = False,
    overwrite: bool,
    progress: Progress = silent,
) -> ExportedModel:
    plan = BuildPlan.from_dict(source.plan, source.path / "config.json")
    check_gpu(
        import_tensorrt(source.format.name), source.format.name, find_gpu(import_cuda()), source.precision
    )
    gate_inputs = GateInputs.load(source.gate_inputs)
    made_from = {
        "deferred": value_digest(source.manifest.digest),
        "checkpoint": source.spec.model_digest,
    }
    fields: dict[str, Any] = {
        "format": source.format.name,
        "precision": source.precision,
        "target": source.target,
    }
    with sealed_folder(
        out, KIND, overwrite=overwrite, inputs=made_from, fields=fields, shipped=True
    ) as folder:
        options = build_engines(source.format.name, source.path, folder, plan, progress)
        options["graphs"] = source.graphs
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        open_tokenizer(source.path).save(folder)
        config = {**fields, "spec": source.spec.to_dict(), "options": options}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        report = check_parity(gate_inputs, folder, progress=progress)
        allowed = allow_inconclusive or _allows_inconclusive(source)
        stop_unless_passed(report, out, allow_inconclusive=allowed)
        fields["inconclusive_allowed"] = report.verdict is Verdict.INCONCLUSIVE
        (folder / "parity.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        fields["tools"] = package_versions()
        fields["sizes"] = {**source.manifest.fields.get("sizes", {}), "bytes": files}
        fields["speed"] = measure_speed(folder, source.spec)
    return open_exported_model(out)


def _allows_inconclusive(source: DeferredExport) -> bool:
    return bool(source.manifest.fields.get("inconclusive_allowed"))


def _key(source: DeferredExport) -> str:
    """Of everything that decides the engines and whether they pass."""
    trt, gpu = import_tensorrt(source.format.name), find_gpu(import_cuda())
    return value_digest(
        {
            "files": source.manifest.digest,  # graphs, questions of the gate, and config.json with profiles and flags
            "tensorrt": [trt.__name__, trt.__version__],
            "gpu": [gpu.name, gpu.compute_capability],
            "gate": [kdx.__version__, _allows_inconclusive(source)],
        }
    )[:24]


def _is_whole(place: Path) -> bool:
    """Whether engines lie there that may be loaded. What is damaged or unknown is made again."""
    if not place.exists():
        return False
    try:
        model = open_exported_model(place)
        for engine in (model.image_encoder, model.text_encoder):
            check_trusted(file_digest(engine), engine)
    except DataError:
        return False
    return True
