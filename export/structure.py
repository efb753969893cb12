"""Tier 0 of the parity gate: what an ONNX file declares, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from kdx.core.encoder import EncoderSpec
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS

from .onnx import BATCH, DATA_SUFFIX, LENGTH, OPSET, parts
from .report import Check

Shape = Sequence[int | str]
FLOAT = onnx.TensorProto.FLOAT
ARITHMETIC = {"fp32": FLOAT, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
PRODUCTS = ("Conv", "MatMul", "Gemm")
SUMS = ("Softmax", "LayerNormalization", "GroupNormalization", "BatchNormalization", "ReduceL2")


def check_onnx(folder: Path, spec: EncoderSpec, precision: str) -> list[Check]:
    """Checks both encoders of an exported model against the contract of docs/formats.md."""
    size = spec.image_size
    float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    features: Shape = (BATCH, spec.embed_dim)
    return [
        *_check_file(
            folder / "image_encoder.onnx",
            (PIXELS, float_, (BATCH, 3, size, size)),
            (IMAGE_FEATURES, float_, features),
            precision,
        ),
        *_check_file(
            folder / "text_encoder.onnx",
            (TOKENS, int_, (BATCH, LENGTH if spec.has_free_length else spec.context_length)),
            (TEXT_FEATURES, float_, features),
            precision,
        ),
    ]


def _check_file(
    path: Path, input_: tuple[str, int, Shape], output: tuple[str, int, Shape], precision: str
) -> list[Check]:
    name = path.stem
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the checker raises many kinds for a file that is no graph
        return [Check.holds(f"{name} is a valid graph", str(error).splitlines()[0] or type(error).__name__)]
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    noted = [part for part in parts(model) if part.doc_string or getattr(part, "metadata_props", ())]
    leak = f"{type(noted[0]).__name__} {getattr(noted[0], 'name', '')} carries notes" if noted else ""
    return [
        Check.holds(f"{name} is a valid graph"),
        Check.holds(
            f"{name} opset", "" if opsets.get("") == OPSET else f"{opsets.get('')} instead of {OPSET}"
        ),
        Check.holds(f"{name} input", _difference(model.graph.input, input_)),
        Check.holds(f"{name} output", _difference(model.graph.output, output)),
        Check.holds(f"{name} leaks no paths", leak),
        Check.holds(f"{name} weights", _missing_data(model, path)),
        *([Check.holds(f"{name} arithmetic", _astray(model, precision))] if precision in ARITHMETIC else []),
    ]


def _astray(model: onnx.ModelProto, precision: str) -> str:
    """Empty if products are computed in the file's precision, and in fp32 what half precision is known to break."""
    products = ARITHMETIC[precision]
    values = (*model.graph.value_info, *model.graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in model.graph.node:
        wanted = {**dict.fromkeys(PRODUCTS, products), **dict.fromkeys(SUMS, FLOAT)}.get(node.op_type)
        if wanted is not None and (found := types.get(node.input[0])) != wanted:
            names = [onnx.TensorProto.DataType.Name(kind) for kind in (found or 0, wanted)]
            return f"{node.op_type} {node.name} computes in {names[0]} instead of {names[1]}"
    return ""


def _missing_data(model: onnx.ModelProto, path: Path) -> str:
    """Empty if all weights are in the file, or whole in the one data file beside it.

    The checker accepts any file of that name, however short.
    """
    outside = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    data = path.with_name(path.name + DATA_SUFFIX)
    if strange := {entry["location"] for entry in outside} - {data.name}:
        return f"lie in {sorted(strange)[0]} instead of {data.name}"
    needed = max((int(entry["offset"]) + int(entry["length"]) for entry in outside), default=0)
    found = data.stat().st_size if outside else 0
    return "" if found >= needed else f"{data.name} has {found} bytes instead of {needed}"


def _difference(values: Sequence[onnx.ValueInfoProto], expected: tuple[str, int, Shape]) -> str:
    """Empty if there is exactly the expected tensor."""
    found = [
        (
            value.name,
            value.type.tensor_type.elem_type,
            tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]
    return (
        ""
        if found == [(expected[0], expected[1], tuple(expected[2]))]
        else f"{found} instead of {[expected]}"
    )
