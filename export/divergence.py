"""Which layer of an exported ONNX graph is the first that leaves PyTorch's: asked when the parity gate has failed.

The tower is traced once more, as it was before kdx took the layers' names out, and both graphs run on the worst input
with every value as an output, unoptimized. Values keep their names where a graph was cast or quantized, so that they
can be compared; the trace says which module each belongs to.
Called as `python -m kdx.export.divergence TRACED.onnx EXPORTED.onnx INPUT.npy ERRORS.json FAULT`, in a process
of its own, as every file that may be damaged.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir

from kdx.core.errors import KdxError
from kdx.core.scratch import scratch_folder
from kdx.models.checkpoint import Checkpoint

from .child import Child, ChildCrash, answer_parent

ROUNDING = 1e-4  # relative; fp32 graphs of one model stay below 1e-5 in every layer that was looked at
SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the modules around it, outermost first, and its own name
TIMEOUT = 300.0  # seconds
DOING = "find the layer that differs"
BROKEN = 1e9  # stands for an infinite error, which JSON has no number for

Errors = list[tuple[str, float]]


def first_divergence(
    checkpoint: Checkpoint, encoder: Path, tower: str, batch: npt.NDArray[Any]
) -> tuple[str, float, float] | None:
    """(layer, relative error after it, relative error before it) at the largest jump; None if none can be named.

    encoder: the .onnx file of one tower, "image" or "text". batch: [1, …], what the tower takes.
    The layer is a module's path in the checkpoint's model, such as visual.transformer.resblocks.3.mlp.c_proj.
    """
    from .onnx import trace_tower

    if not encoder.is_file() or _has_data_beside_it(encoder):
        return None
    traced = trace_tower(checkpoint, tower).model
    layers = {output.name: _module(node) for node in traced.graph for output in node.outputs if output.name}
    with scratch_folder() as folder:
        reference, asked, found = (folder / name for name in ("traced.onnx", "asked.npy", "errors.json"))
        reference.write_bytes(onnx_ir.to_proto(traced).SerializeToString())
        np.save(asked, batch)
        arguments = (reference, encoder, asked, found)
        with (
            # what the gate found stands, also if nobody can say where it begins
            contextlib.suppress(ChildCrash, KdxError, RuntimeError),
            Child("kdx.export.divergence", arguments, doing=DOING, lighter="export a smaller model") as child,
        ):
            child.wait(TIMEOUT)
        if not found.exists():
            return None
        errors: Errors = json.loads(found.read_text(encoding="utf-8"))
    return largest_jump([(layers.get(name, ""), error) for name, error in errors])


def largest_jump(errors: Iterable[tuple[str, float]]) -> tuple[str, float, float] | None:
    """Of (layer, relative error) in the order of computation, where the error grows by the largest factor.

    Growth from below ROUNDING counts from there.
    """
    best: tuple[str, float, float] | None = None
    factor, before = 2.0, 0.0
    for layer, error in errors:
        grown = error / max(before, ROUNDING)
        if layer and grown > factor:
            best, factor = (layer, error, before), grown
        before = max(before, error)
    return best


def _module(node: onnx_ir.Node) -> str:
    """The innermost module around a node, without the tower that only the export has."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    inside = [str(scope) for scope in scopes[:-1] if str(scope).startswith("model.")]
    return inside[-1].removeprefix("model.") if inside else "normalisation" if scopes else ""


def _has_data_beside_it(path: Path) -> bool:
    model = onnx.load(path, load_external_data=False)
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in model.graph.initializer)


def _relative_errors(reference: Path, exported: Path, batch: npt.NDArray[Any]) -> Errors:
    graphs = [onnx.load(path) for path in (reference, exported)]
    shared = [name for name in _values(graphs[0]) if name in set(_values(graphs[1]))]
    first, second = (_run(graph, shared, batch) for graph in graphs)
    errors: Errors = []
    for name, one, other in zip(shared, first, second, strict=True):
        if one.shape != other.shape or not np.issubdtype(one.dtype, np.floating) or not one.size:
            continue
        errors.append((name, _relative_error(one.astype(np.float64), other.astype(np.float64))))
    return errors


def _relative_error(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Masks hold −∞ on both sides; what is not finite on one side alone counts as BROKEN."""
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, one - other)
    if not np.isfinite(difference).all():
        return BROKEN
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(one[np.isfinite(one)])), 1e-12))


def _values(model: onnx.ModelProto) -> list[str]:
    """What the nodes compute, in their order."""
    return [name for node in model.graph.node for name in node.output if name]


def _run(model: onnx.ModelProto, names: list[str], batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    import onnxruntime

    there = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values: list[Any] = list(session.run(names, {model.graph.input[0].name: batch}))
    return values


def _find(reference: Path, exported: Path, asked: Path, found: Path) -> None:
    errors = _relative_errors(reference, exported, np.load(asked))
    found.write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":
    *PATHS, FAULT = map(Path, sys.argv[1:6])
    sys.exit(answer_parent(lambda: _find(*PATHS), FAULT, doing=DOING))
