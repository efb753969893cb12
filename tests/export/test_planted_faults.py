"""Faults that exports and servers really have, planted one at a time: the gate must see each, and say where it can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdx.export.gate_inputs import GateInputs, prepare
from kdx.export.onnx import export_towers
from kdx.export.pair import embed_samples, judge_pair
from kdx.export.parity import check_parity
from kdx.export.report import ParityReport, Verdict
from kdx.export.samples import ParitySamples
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.formats import LIMITS
from kdx.runtime.onnx import OnnxEncoder
from kdx.runtime.torch import TorchEncoder

IMAGE, TEXT = "image_encoder.onnx", "text_encoder.onnx"


@pytest.fixture(scope="module")
def checkpoint(mini_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(mini_checkpoint)


@pytest.fixture(scope="module")
def inputs(checkpoint: Checkpoint, parity_samples: ParitySamples) -> GateInputs:
    with TorchEncoder(checkpoint) as reference:
        return prepare(reference, parity_samples)


@pytest.fixture
def copy(exported_model: Path, tmp_path: Path) -> Path:
    """The exported model, to be damaged."""
    return Path(shutil.copytree(exported_model, tmp_path / "copy"))


def _edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def _weights(model: onnx.ModelProto, name: str) -> TensorProto:
    (found,) = [tensor for tensor in model.graph.initializer if name in tensor.name]
    return found


def _set(tensor: TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _quick_gelu_for_gelu(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        factor = numpy_helper.from_array(np.array(1.702, np.float32), "quick")
        model.graph.initializer.append(factor)
        nodes = []
        for node in model.graph.node:
            if node.op_type != "Gelu":
                nodes.append(node)
                continue
            (x,), (y,) = node.input, node.output
            nodes.append(helper.make_node("Mul", [x, "quick"], [f"{y}_scaled"]))
            nodes.append(helper.make_node("Sigmoid", [f"{y}_scaled"], [f"{y}_gate"]))
            nodes.append(helper.make_node("Mul", [x, f"{y}_gate"], [y]))
        assert len(nodes) > len(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    _edit(folder / TEXT, change)


def _end_of_text_off_by_one(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
        index, found = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "ArgMax")
        (place,) = found.output
        found.output[0] = f"{place}_true"
        model.graph.node.insert(index + 1, helper.make_node("Sub", [f"{place}_true", "one"], [place]))

    _edit(folder / TEXT, change)


def _transposed_projection(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        projection = _weights(model, "text_projection")
        values = numpy_helper.to_array(projection)
        _set(projection, values.T.reshape(values.shape))

    _edit(folder / TEXT, change)


def _one_channel_off_by_one_percent(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        weights = max((t for t in model.graph.initializer if len(t.dims) == 4), key=lambda t: t.dims[0])
        values = numpy_helper.to_array(weights).copy()
        values[0] *= 1.01
        _set(weights, values)

    _edit(folder / IMAGE, change)


def _files_of_another_model(folder: Path) -> None:
    """As trained from another seed."""
    architecture = read_architecture("kdx-mini")
    other = folder.parent / "other"
    save_checkpoint(other, build_model(architecture, 7), architecture, clip_tokenizer())
    export_towers(open_checkpoint(other), folder)


@pytest.mark.parametrize(
    "fault",
    [
        _quick_gelu_for_gelu,
        _end_of_text_off_by_one,
        _transposed_projection,
        _one_channel_off_by_one_percent,
        _files_of_another_model,
    ],
)
def test_a_wrong_graph_fails_in_numbers(
    inputs: GateInputs, copy: Path, fault: Callable[[Path], None]
) -> None:
    fault(copy)
    assert _failing(check_parity(inputs, copy)) >= {"numbers"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_no_sample_is_long_enough_for_fails_too(inputs: GateInputs, copy: Path, precision: str) -> None:
    longest = max(
        array.shape[1]
        for name, array in inputs.requests.items()
        if name.startswith(("text/sample", "text/class"))
    )

    def change(model: onnx.ModelProto) -> None:
        table = _weights(model, "positional_embedding")
        values = numpy_helper.to_array(table).copy()
        assert longest < len(values)
        values[longest:] *= 100
        _set(table, values)

    _edit(copy / TEXT, change)
    report = check_parity(inputs, copy, limits=replace(LIMITS[precision], margin=0.9))
    assert {check.name.partition(" ")[0] for _, check in report.findings(Verdict.FAIL)} == {"text"}


def test_dynamic_scales_fail_because_a_text_changes_with_its_neighbours(
    inputs: GateInputs, copy: Path
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(copy / TEXT, copy / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    (copy / "int8.onnx").replace(copy / TEXT)
    limits = replace(LIMITS["int8"], margin=0.9)  # the weights are random
    report = check_parity(inputs, copy, limits=limits)
    names = [check.name for _, check in report.findings(Verdict.FAIL)]
    assert "a text alone and in a batch" in names


def test_a_wrong_mean_and_swapped_channels_are_seen_where_bytes_go_in(
    checkpoint: Checkpoint, exported_model: Path, parity_samples: ParitySamples
) -> None:
    few = replace(parity_samples, images=parity_samples.images[:40], texts=parity_samples.texts[:40])
    with TorchEncoder(checkpoint) as reference, OnnxEncoder(open_exported_model(exported_model)) as encoder:
        expected = embed_samples(reference, few)
        right = encoder.preprocess
        honest = judge_pair(expected, embed_samples(encoder, few), LIMITS["fp32"], {})
        assert honest.verdict is Verdict.INCONCLUSIVE and not _failing(honest)  # forty are too few to pass
        for wrong in (
            replace(right, mean=(0.485, 0.456, 0.406)),
            lambda image: right(image)[::-1].copy(),  # the channels' order, as OpenCV reads
        ):
            encoder.preprocess = wrong  # pyright: ignore[reportAttributeAccessIssue]
            report = judge_pair(expected, embed_samples(encoder, few), LIMITS["fp32"], {})
            assert "numbers" in _failing(report)
            names = [check.name for _, check in report.findings(Verdict.FAIL)]
            assert all(name.startswith(("image", "class", "text of an image")) for name in names)


def _failing(report: ParityReport) -> set[str]:
    return {tier.name for tier, _ in report.findings(Verdict.FAIL)}
