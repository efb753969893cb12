"""Facts of export/quantization.py, on towers with random weights: what the two kinds of int8 file are and compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizers import open_tokenizer
from kdx.export.exported import export_checkpoint
from kdx.export.quantization import quantize_towers, slower_towers
from kdx.export.samples import ParitySamples
from kdx.export.structure import check_onnx
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.formats import find_format
from kdx.runtime.onnx import OnnxEncoder

MakePhoto = Callable[..., bytes]


@pytest.fixture(scope="module")
def calibration(make_photo: MakePhoto) -> ParitySamples:
    captions = ["a cat", "two dogs!", "a small red house by the sea", "one tree", "nothing at all, it seems"]
    return ParitySamples(
        [make_photo(1000 + row) for row in range(40)], captions, ("circle", "square", "star")
    )


Export = Callable[[str], ExportedModel]


@pytest.fixture(scope="module")
def export(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    calibration: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Export:
    """target → the mini checkpoint as an exported model in int8, which passed the gate."""
    made: dict[str, ExportedModel] = {}

    def export(target: str) -> ExportedModel:
        if target not in made:
            limits = find_format("onnx").precisions["int8"]
            with traced_before():
                made[target] = export_checkpoint(
                    open_checkpoint(mini_checkpoint),
                    tmp_path_factory.mktemp(target) / "int8",
                    samples=parity_samples,
                    precision="int8",
                    target=target,
                    calibration=calibration,
                    limits=replace(limits, margin=0.5),  # the weights are random
                )
        return made[target]

    return export


def _load(path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = onnx.load(path)
    return model, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _zero_points(path: Path, op_type: str) -> list[np.ndarray]:
    model, weights = _load(path)
    return [weights[node.input[2]] for node in model.graph.node if node.op_type == op_type]


@pytest.mark.parametrize("target", ["cpu", "trt"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_contract_of_the_file_is_that_of_fp32(
    export: Export, exported_model: Path, target: str, tower: str
) -> None:
    model = export(target)
    checks = check_onnx(model.path, model.spec, "int8")
    assert [check.name for check in checks if check.verdict != "PASS"] == []
    file = f"{tower}_encoder.onnx"
    properties = [onnx.load(path / file).metadata_props for path in (model.path, exported_model)]
    assert {p.key: p.value for p in properties[0]} == {p.key: p.value for p in properties[1]}


def test_a_cpu_file_has_unsigned_activations_and_signed_weights_by_channel(export: Export) -> None:
    exported = export("cpu")
    record = exported.options["int8"]
    model, weights = _load(exported.image_encoder)
    points = _zero_points(exported.image_encoder, "QuantizeLinear")
    assert {point.dtype for point in points} == {np.dtype(np.uint8)}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    scaled = {
        node.input[0]: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and weights.get(node.input[0], np.empty(0)).ndim == 4
    }
    assert len(scaled) == len(convolutions) > 3
    for name, scale in scaled.items():
        assert weights[name].dtype == np.int8 and scale.shape == weights[name].shape[:1]
    assert record["image"]["quantized_layers"] > len(convolutions)
    assert record["image"]["method"] in record["image"]["compared"] and len(record["image"]["compared"]) == 3
    assert record["text"]["speedup_batch1"] > 0


def test_a_tensorrt_file_is_symmetric_with_paired_weights_and_float_biases(export: Export) -> None:
    exported = export("trt")
    for tower, path in (("image", exported.image_encoder), ("text", exported.text_encoder)):
        points = [*_zero_points(path, "QuantizeLinear"), *_zero_points(path, "DequantizeLinear")]
        assert all(point.dtype == np.int8 and not point.any() for point in points)
        model, weights = _load(path)
        assert not [
            tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT32
        ]
        quantized = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        assert {name for name in quantized if weights.get(name, np.empty(0)).ndim >= 2}
        assert "speedup_batch1" not in exported.options["int8"][tower]


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_int8_is_near_fp32_and_a_row_does_not_depend_on_its_neighbours(
    export: Export, exported_model: Path, target: str
) -> None:
    model = export(target)
    random = np.random.default_rng(0)
    tokenizer = open_tokenizer(model.path)
    tokens = model.spec.pad(
        [tokenizer.encode(text, 32) for text in ("a cat", "a large dog with a stick", "two")]
    )
    pixels = random.standard_normal((3, 3, 32, 32), dtype=np.float32)
    with (
        OnnxEncoder(open_exported_model(exported_model)) as reference,
        OnnxEncoder(replace(model, target="cpu")) as encoder,
    ):
        text, image = encoder.encode_text(tokens), encoder.encode_image(pixels)
        assert (text * reference.encode_text(tokens)).sum(axis=1).min() > 0.98
        assert (image * reference.encode_image(pixels)).sum(axis=1).min() > 0.98
        alone = tokens[:1, : (tokens[0] != 0).sum()]
        assert np.abs(encoder.encode_text(alone) - text[:1]).max() < 1e-6
        assert np.abs(encoder.encode_image(pixels[:1]) - image[:1]).max() < 1e-6


def test_the_runtime_refuses_a_tensorrt_file_which_the_gate_has_run(export: Export) -> None:
    model = export("trt")
    assert model.parity()["verdict"] == "PASS"
    with pytest.raises(UsageError) as refused:
        model.open()
    assert refused.value.where == str(model.path)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_nvidias_parser_builds_the_tensorrt_file(export: Export, tower: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(logger := trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(export("trt").path / f"{tower}_encoder.onnx")), parser.get_error(
        0
    ).desc()
    profile = builder.create_optimization_profile()
    rest = (3, 32, 32) if tower == "image" else (8,)
    profile.set_shape(network.get_input(0).name, (1, *rest), (2, *rest), (4, *rest))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_int8_without_calibration_samples_is_refused(
    mini_checkpoint: Path, parity_samples: ParitySamples, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        export_checkpoint(
            open_checkpoint(mini_checkpoint), tmp_path / "out", samples=parity_samples, precision="int8"
        )
    assert list(tmp_path.iterdir()) == []


def test_images_of_one_colour_are_refused(
    exported_model: Path, calibration: ParitySamples, mini_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    gray = [Image.new("RGB", (32, 32), (level, level, level)) for level in range(100, 140)]
    files = []
    for row, image in enumerate(gray):
        image.save(tmp_path / f"{row}.png")
        files.append(tmp_path / f"{row}.png")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError):
        quantize_towers(
            exported_model,
            out,
            spec=checkpoint.spec,
            tokenizer=checkpoint.tokenizer,
            calibration=replace(calibration, images=files),
            target="cpu",
        )
    assert list(out.iterdir()) == []


def test_a_tower_that_is_no_faster_is_named() -> None:
    options = {"int8": {"image": {"speedup_batch1": 0.8}, "text": {"speedup_batch1": 2.5}}}
    (sentence,) = slower_towers(options)
    assert "image" in sentence and "0.80" in sentence
    assert slower_towers({}) == [] and slower_towers({"int8": {"image": {"method": "MinMax"}}}) == []
