"""Which layer of an exported ONNX graph is the first that leaves PyTorch's: asked when the parity gate has failed.

The tower is traced once more, as it was before kdx took the layers' names out, and both graphs run on the worst input
with every value as an output, unoptimized. The trace is of the file's own kind, since only then the values of the two
have the same names: an fp16 file is compared with the trace of the cast towers, computed in fp32, and an int8 file with
the fp32 trace that it was quantized from. The trace says which module each value belongs to.
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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir

from kdx.core.errors import KdxError
from kdx.core.scratch import scratch_folder

from .child import Child, ChildCrash, answer_parent

if TYPE_CHECKING:
    from kdx.models.checkpoint import Checkpoint  # with torch, which the child process does not need

# Relative errors that are rounding, by the file's arithmetic. Seen in files without a fault: below 1e-5 in fp32, up to
# 1.6e-3 in fp16 (MobileNetV3-S, a ViT and text towers, random weights), up to 0.03 in int8 (the demo's student)
ROUNDING = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.2}
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
    from .half_precision import DTYPES
    from .onnx import trace_tower

    if not encoder.is_file():
        return None
    model = onnx.load(encoder, load_external_data=False)
    if _has_data_beside_it(model):
        return None
    arithmetic = _arithmetic(model)
    # an int8 file was quantized from the fp32 one
    traced = trace_tower(checkpoint, tower, DTYPES.get(arithmetic, DTYPES["fp32"])).model
    layers = {output.name: _module(node) for node in traced.graph for output in node.outputs if output.name}
    with scratch_folder() as folder:
        reference, asked, found = (folder / name for name in ("traced.onnx", "asked.npy", "errors.json"))
        reference.write_bytes(in_fp32(onnx_ir.to_proto(traced)).SerializeToString())
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
    return largest_jump(
        [(layers.get(name, ""), error) for name, error in errors], rounding=ROUNDING[arithmetic]
    )


def largest_jump(errors: Iterable[tuple[str, float]], *, rounding: float) -> tuple[str, float, float] | None:
    """Of (layer, relative error) in the order of computation, where the error grows by the largest factor.

    Growth from below `rounding` counts from there.
    """
    best: tuple[str, float, float] | None = None
    factor, before = 2.0, 0.0
    for layer, error in errors:
        grown = error / max(before, rounding)
        if layer and grown > factor:
            best, factor = (layer, error, before), grown
        before = max(before, error)
    return best


def _module(node: onnx_ir.Node) -> str:
    """The innermost module around a node, or which step of the tower's own it is, such as the projection."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    inside = [str(scope) for scope in scopes[:-1] if str(scope).startswith("model.")]
    if inside:
        return inside[-1].removeprefix("model.")
    return f"{node.op_type} outside of all modules" if scopes else ""


def _arithmetic(model: onnx.ModelProto) -> str:
    """Of a file of kdx: int8, fp16 or fp32."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    return "fp16" if any(tensor.data_type == half for tensor in model.graph.initializer) else "fp32"


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the same nodes, values and names, whose numbers of half precision are fp32."""
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif node.op_type == "Cast" and attribute.i == half:
                attribute.i = single
    for tensor in tensors:
        if tensor.data_type == half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    return model


def _has_data_beside_it(model: onnx.ModelProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in model.graph.initializer)


def _relative_errors(reference: Path, exported: Path, batch: npt.NDArray[Any]) -> Errors:
    graphs = [onnx.load(path) for path in (reference, exported)]
    there = set(_values(graphs[1]))
    shared = [name for name in _values(graphs[0]) if name in there]
    rounded = _rounded(graphs[1])
    first = _run(graphs[0], shared, batch)
    second = _run(graphs[1], [rounded.get(name, name) for name in shared], batch)
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


def _rounded(model: onnx.ModelProto) -> dict[str, str]:
    """Of each value that is quantized, the one that comes back from it: a Relu before it may be left to its range."""
    whole = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    back = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {value: back[number] for value, number in whole.items() if number in back}


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
