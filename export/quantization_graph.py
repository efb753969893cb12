"""Quantising one ONNX graph by onnxruntime.quantization: which nodes, from which ranges, and in which of two kinds.

cpu: unsigned asymmetric activations, signed weights per channel, as ONNX Runtime's integer kernels take them. trt:
everything symmetric and signed, a QuantizeLinear-DequantizeLinear pair before each weight and a bias in float, as
TensorRT's parser takes them; ONNX Runtime runs such a file at 0.3 to 1.2 of the speed of fp32.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = ("MinMax", "Entropy", "Percentile")
# ONNX Runtime's own 128 bins leave Entropy one threshold to choose from, 256 leave 65
BINS = {"Entropy": {"num_bins": 256, "num_quantized_bins": 128}, "Percentile": {"num_bins": 8192}}
PERCENTILE = (
    99.999  # 99.99 cuts off what rare images need: EfficientNet-B0's worst cosine falls from 0.91 to 0.73
)

LAYERS = ("Conv", "MatMul", "Gemm")
# A Relu or Clip behind a quantised layer goes into its output scale and costs nothing.
FOLDED = ("Relu", "Clip")
# Between two convolutions these would each be a DequantizeLinear, a float kernel and a QuantizeLinear.
ELEMENTWISE = ("Add", "Mul", "Sigmoid", "GlobalAveragePool")
PASSED = ("HardSigmoid",)  # elementwise too, but without an integer kernel


@dataclass(frozen=True)
class Plan:
    """Names of nodes. layers: Conv, MatMul, Gemm. between: elementwise ones among convolutions. folded: Relu, Clip."""

    layers: tuple[str, ...]
    between: tuple[str, ...]
    folded: tuple[str, ...]


def prepare_graph(source: Path, path: Path) -> Plan:
    """Writes the graph as the quantiser takes it, with shapes and folded constants, and says what is in it."""
    with _quiet():
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    model = onnx.load(path)
    _pool_means(model.graph)
    onnx.save(model, path)
    layers, folded = (
        tuple(node.name for node in model.graph.node if node.op_type in types) for types in (LAYERS, FOLDED)
    )
    return Plan(layers, tuple(_between_convolutions(model.graph)), folded)


def _pool_means(graph: onnx.GraphProto) -> None:
    """A mean over height and width becomes a GlobalAveragePool, for which there is an integer kernel.

    With ReduceMean EfficientNet-B0's 17 squeezes took 1.3 of 7.4 ms, with the transposes that they need.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input)}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or ranks.get(node.input[0]) != 4:
            continue
        axes = constants.get(node.input[1])
        kept = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if axes is None or not kept:
            continue
        if sorted(axis % 4 for axis in onnx.numpy_helper.to_array(axes).tolist()) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _between_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the elementwise nodes all of whose inputs come, through such nodes alone, from convolutions."""
    makers = {name: node for node in graph.node for name in node.output}
    inside: dict[str, bool] = {}  # by the name of a tensor; graphs are in order, so makers come first

    for node in graph.node:
        if node.op_type == "Conv":
            inside[node.output[0]] = True
        elif node.op_type in (*ELEMENTWISE, *FOLDED, *PASSED):
            made = [name for name in node.input if name in makers]
            inside[node.output[0]] = bool(made) and all(inside.get(name, False) for name in made)
    return [node.name for node in graph.node if node.op_type in ELEMENTWISE and inside[node.output[0]]]


class _Batches(CalibrationDataReader):
    def __init__(self, input_name: str, batches: Iterable[npt.NDArray[Any]]) -> None:
        self._feeds = ({input_name: batch} for batch in batches)

    def get_next(self) -> dict[str, Any]:
        return next(self._feeds, {})


def collect_ranges(
    graph: Path, plan: Plan, method: str, input_name: str, batches: Iterable[npt.NDArray[Any]]
) -> Path:
    """The range of each tensor over all batches, as a file beside `graph` for `quantize_graph`.

    One batch at a time: the calibrator keeps the values of all tensors for all batches that it is given at once, and
    its own bound on that (CalibMaxIntermediateOutputs) throws them away unseen in onnxruntime 1.32.
    """
    options = {"symmetric": False, "percentile": PERCENTILE, **BINS.get(method, {})}
    with _quiet():
        calibrator: Any = create_calibrator(
            graph,
            # where there are no convolutions, an Add may hold a mask's −∞, which has no range
            [*LAYERS, *FOLDED, *(ELEMENTWISE if plan.between else ())],
            augmented_model_path=str(graph.with_name("augmented.onnx")),
            calibrate_method=CalibrationMethod[method],
            extra_options=options,
        )
        for batch in batches:
            calibrator.collect_data(_Batches(input_name, [batch]))
        found = calibrator.compute_data()
    ranges = {
        name: (np.asarray(low, np.float32), np.asarray(high, np.float32))
        for name, (low, high) in ((name, data.range_value) for name, data in found.items())
    }
    path = graph.with_name(f"{method}.json")
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), path)  # pyright: ignore[reportArgumentType]
    return path


def quantize_graph(graph: Path, out: Path, ranges: Path, target: str, nodes: Sequence[str]) -> None:
    """Writes the graph with these nodes quantised, all others in float."""
    if target == "trt":
        activations, types = QuantType.QInt8, LAYERS
        extra: dict[str, Any] = {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(LAYERS),
        }
    else:
        activations, types = QuantType.QUInt8, (*LAYERS, *FOLDED, *ELEMENTWISE)
        # Without a scale for its output a product leaves the integer kernel as float, which LayerNorm, Softmax and the
        # residual want: ViT-T/16 1.8 × fp32 instead of 1.3, and nearer to it. A convolution needs its output's scale.
        extra = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    with _quiet():
        quantize_static(
            graph,
            out,
            None,  # pyright: ignore[reportArgumentType]  the ranges are in the cache
            calibration_cache_path=ranges,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(types),
            nodes_to_quantize=list(nodes),
            extra_options=extra,
        )


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """onnxruntime.quantization prints and warns through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        root.setLevel(level)
