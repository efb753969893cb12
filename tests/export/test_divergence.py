"""Facts of export/divergence.py: a fault that is planted in one layer is found there, whatever the file computes in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from kdx.export import onnx as builder
from kdx.export.divergence import first_divergence, largest_jump
from kdx.export.quantization_graph import collect_ranges, prepare_graph, quantize_graph
from kdx.models.checkpoint import Checkpoint, open_checkpoint

TOKENS = np.array([[49406, 320, 1125, 539, 320, 1929, 49407]], np.int32)
PIXELS = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
ASKED = {"image": PIXELS, "text": TOKENS}


@pytest.fixture(scope="module")
def checkpoint(mini_checkpoint: Path) -> Iterator[Checkpoint]:
    """mini_checkpoint, of which each tower is traced once in each precision."""
    opened, trace = open_checkpoint(mini_checkpoint), builder.trace_tower
    traced = functools.cache(lambda tower, dtype: trace(opened, tower, dtype))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "trace_tower", lambda _, tower, dtype: traced(tower, dtype))
        yield opened


def _int8(source: Path, out: Path) -> None:
    """Both graphs with every layer quantized by the range of one batch."""
    out.mkdir()
    for each in ("image", "text"):
        prepared = out / f"{each}.onnx"
        plan = prepare_graph(source / f"{each}_encoder.onnx", prepared)
        input_ = "pixels" if each == "image" else "tokens"
        ranges = collect_ranges(prepared, plan, "MinMax", input_, [ASKED[each]])
        nodes = [*plan.layers, *plan.between, *plan.folded]
        quantize_graph(prepared, out / f"{each}_encoder.onnx", ranges, "cpu", nodes)


@pytest.fixture(scope="module")
def exports(
    checkpoint: Checkpoint, exported_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders with both encoders, by precision."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "fp16").mkdir()
    builder.export_towers(checkpoint, folder / "fp16", torch.float16)
    _int8(exported_model, folder / "int8")
    return {"fp32": exported_model, "fp16": folder / "fp16", "int8": folder / "int8"}


@pytest.mark.parametrize(("precision", "tower"), [("fp32", "text"), ("fp16", "image"), ("int8", "image")])
def test_no_layer_is_named_where_there_is_rounding_alone(
    checkpoint: Checkpoint, exports: dict[str, Path], precision: str, tower: str
) -> None:
    encoder = exports[precision] / f"{tower}_encoder.onnx"
    assert first_divergence(checkpoint, encoder, tower, ASKED[tower]) is None


def _scale(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: (values * factor).astype(values.dtype)


def _reverse(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values[::-1])


@pytest.mark.parametrize(
    ("precision", "tower", "weights", "change", "layer"),
    [
        ("fp32", "text", "text_projection", _scale(1.2), "MatMul outside of all modules"),
        ("fp16", "text", "resblocks.1.attn.out_proj.weight", _scale(1.2), "transformer.resblocks.1.attn"),
        (
            "fp16",
            "image",
            "stages.1.0.conv1_kxk.conv.weight",
            _scale(1.2),
            "visual.trunk.stages.1.0.conv1_kxk",
        ),
        ("int8", "text", "resblocks.1.attn.out_proj.weight", _reverse, "transformer.resblocks.1.attn"),
        ("int8", "image", "stages.1.0.conv1_kxk.conv.weight", _reverse, "visual.trunk.stages.1.0.conv1_kxk"),
    ],
)
def test_the_layer_of_a_planted_fault_is_named(
    checkpoint: Checkpoint,
    exports: dict[str, Path],
    tmp_path: Path,
    precision: str,
    tower: str,
    weights: str,
    change: Callable[[np.ndarray], np.ndarray],
    layer: str,
) -> None:
    model = onnx.load(exports[precision] / f"{tower}_encoder.onnx")
    names = (weights, f"{weights}_quantized")
    (tensor,) = [each for each in model.graph.initializer if each.name.endswith(names)]
    changed = change(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    damaged = tmp_path / f"{tower}_encoder.onnx"
    onnx.save(model, damaged)
    found = first_divergence(checkpoint, damaged, tower, ASKED[tower])
    assert found is not None
    name, after, before = found
    assert name.startswith(layer)  # a folded BatchNorm's name may stand for its convolution
    assert after > 0.15 and before < 0.1


def test_the_largest_jump_counts_from_rounding() -> None:
    errors = [("a", 1e-9), ("b", 1e-7), ("c", 0.02), ("d", 0.03), ("e", 0.01)]
    assert largest_jump(errors, rounding=1e-4) == ("c", 0.02, 1e-7)
    assert largest_jump([("a", 1e-7), ("b", 2e-5)], rounding=1e-4) is None
    assert largest_jump(errors, rounding=0.02) is None
    assert largest_jump([], rounding=1e-4) is None
