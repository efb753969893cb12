"""Facts of serve/layout.py and served_model.py: which models there are, and what their configurations say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2  # pyright: ignore[reportMissingTypeStubs]

from kdx.core.errors import DataError, UsageError
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.formats import find_format
from kdx.serve.layout import ENCODERS, served_models
from kdx.serve.served_model import ServedModel, config_text, from_config, read_config

EMBEDDERS = ["embed_image", "embed_text", "zero_shot"]
PLAN = {  # as engines are recorded
    "image": [{"largest": [32, 3, 32, 32]}],
    "text": [{"largest": [64, 16]}, {"largest": [48, 77]}],
}


@pytest.fixture(scope="module")
def onnx(exported_model: Path) -> ExportedModel:
    return open_exported_model(exported_model)


def _as(model: ExportedModel, format_name: str, **fields: Any) -> ExportedModel:
    """The same model, had it been exported to another format."""
    format_ = find_format(format_name)
    return replace(model, **{"format": format_, "target": format_.targets[0], **fields})


def _variants(onnx: ExportedModel) -> dict[tuple[str, str], tuple[ServedModel, ...]]:
    trt = _as(onnx, "trt", options=PLAN)
    return {
        (backend, device): served_models(
            trt if backend == "tensorrt" else onnx, backend=backend, device=device
        )
        for backend, device in (
            ("python", "cpu"),
            ("python", "gpu"),
            ("onnxruntime", "cpu"),
            ("onnxruntime", "gpu"),
            ("tensorrt", "gpu"),
        )
    }


def _parsed(model: ServedModel) -> Any:
    return text_format.Parse(config_text(model), model_config_pb2.ModelConfig())  # pyright: ignore[reportAttributeAccessIssue]


def test_tokens_of_a_fixed_length_are_asked_for_as_such(onnx: ExportedModel) -> None:
    def length(model: ExportedModel) -> int:
        models = served_models(model, backend="onnxruntime", device="cpu")
        (text,) = [each for each in models if each.name == "text_encoder"]
        return text.inputs[0].dims[0]

    spec = replace(onnx.spec, text_padding="full")
    assert (length(onnx), length(replace(onnx, spec=spec))) == (-1, spec.context_length)


def test_every_configuration_parses_and_reads_back_as_the_record_it_came_from(onnx: ExportedModel) -> None:
    for models in _variants(onnx).values():
        for model in models:
            assert from_config(_parsed(model)) == model


def test_clients_see_the_same_models_and_tensors_in_every_variant(onnx: ExportedModel) -> None:
    seen = [
        [(model.name, model.max_batch_size, model.inputs, model.outputs) for model in models[:3]]
        for models in _variants(onnx).values()
    ]
    assert [name for name, *_ in seen[0]] == EMBEDDERS
    assert all(each == seen[0] for each in seen)


def test_python_on_a_cpu_has_no_models_between_and_every_other_variant_asks_two(onnx: ExportedModel) -> None:
    for variant, models in _variants(onnx).items():
        asks = {model.name: model.asks for model in models}
        if variant == ("python", "cpu"):
            assert list(asks) == EMBEDDERS and asks["embed_image"] == asks["embed_text"] == ()
        else:
            assert list(asks) == [*EMBEDDERS, *ENCODERS]
            assert (asks["embed_image"], asks["embed_text"]) == (("image_encoder",), ("text_encoder",))


def test_encoders_take_what_the_exported_files_take_and_join_requests(onnx: ExportedModel) -> None:
    spec = onnx.spec
    for variant, models in _variants(onnx).items():
        for model in models[3:]:
            config = _parsed(model)
            (taken,), (given,) = config.input, config.output
            size = spec.image_size
            tensor = ("pixels", 11, [3, size, size], "image_features")
            if model.name == "text_encoder":
                tensor = ("tokens", 8, [-1], "text_features")  # TYPE_INT32, of any length
            assert (taken.name, taken.data_type, list(taken.dims), given.name) == tensor
            assert list(given.dims) == [spec.embed_dim] and given.data_type == 11
            assert config.max_batch_size > 16 and config.HasField("dynamic_batching")
            assert config.backend == variant[0]
            assert config.instance_group[0].kind == {"gpu": 1, "cpu": 2}[variant[1]]


def test_onnx_runtime_on_a_gpu_computes_in_true_fp32(onnx: ExportedModel) -> None:
    for model in _variants(onnx)["onnxruntime", "gpu"][3:]:
        (cuda,) = _parsed(model).optimization.execution_accelerators.gpu_execution_accelerator
        assert cuda.name == "cuda" and dict(cuda.parameters)["use_tf32"] == "0"


def test_onnx_runtime_on_a_cpu_takes_one_thread_an_instance(onnx: ExportedModel) -> None:
    models = served_models(onnx, backend="onnxruntime", instances=6)
    for model in models[3:]:
        config = _parsed(model)
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        assert config.instance_group[0].count == 6
        assert config.default_model_filename == f"{model.name}.onnx"


def test_what_a_file_does_not_bear_is_left_out_for_that_file_alone(onnx: ExportedModel) -> None:
    both = ["MatmulTransposeFusion", "AttentionFusion"]
    for disabled, level in (
        (both[:1], 1),
        (both[1:], -1),
        (both, -1),
    ):  # 1: no layouts of a CPU, -1: basic alone
        options = {"disabled_optimizers": {"text_encoder": disabled}}
        models = served_models(replace(onnx, options=options), backend="onnxruntime", device="gpu")
        levels = {model.name: _parsed(model).optimization.graph.level for model in models}
        assert (levels["image_encoder"], levels["text_encoder"]) == (0, level)
    other = replace(onnx, options={"disabled_optimizers": {"image_encoder": ["ConvAddFusion"]}})
    with pytest.raises(UsageError) as caught:
        served_models(other, backend="onnxruntime")
    assert "ConvAddFusion" in caught.value.what
    assert served_models(other)


def test_an_engine_is_served_with_all_its_profiles_and_no_more_than_they_admit(onnx: ExportedModel) -> None:
    image, text = _variants(onnx)["tensorrt", "gpu"][3:]
    assert (image.profiles, image.max_batch_size) == (("0",), 32)
    assert (text.profiles, text.max_batch_size) == (("0", "1"), 48)
    assert (image.file, text.file) == ("image_encoder.engine", "text_encoder.engine")


@pytest.mark.parametrize(
    ("format_name", "fields", "backend", "device", "named"),
    [
        ("onnx", {}, "tensorrt", "gpu", "trt"),
        ("trt", {}, "onnxruntime", "gpu", "onnx"),
        ("openvino", {}, "onnxruntime", "cpu", "onnx"),
        ("trt-rtx", {}, "tensorrt", "gpu", "trt"),
        ("trt", {}, "tensorrt", "cpu", "--device gpu"),
        ("trt", {}, "python", "cpu", "--device gpu"),
        ("openvino", {}, "python", "gpu", "--device cpu"),
        ("onnx", {"precision": "int8", "target": "trt"}, "python", "cpu", "--target cpu"),
        ("onnx", {"precision": "int8", "target": "trt"}, "onnxruntime", "gpu", "--target cpu"),
        ("onnx", {}, "pytorch", "cpu", "onnxruntime"),
        ("onnx", {}, "python", "tpu", "gpu"),
    ],
)
def test_what_a_backend_cannot_run_is_refused_with_what_can(
    onnx: ExportedModel, format_name: str, fields: dict[str, str], backend: str, device: str, named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        served_models(_as(onnx, format_name, options=PLAN, **fields), backend=backend, device=device)
    assert named in str(caught.value.remedy)


@pytest.mark.parametrize(("compiled", "device", "other"), [("cpu", "cpu", "gpu"), ("cuda", "gpu", "cpu")])
def test_compiled_code_is_served_on_what_it_was_compiled_for(
    onnx: ExportedModel, compiled: str, device: str, other: str
) -> None:
    pt2 = _as(onnx, "pt2", options={"device": compiled})
    assert served_models(pt2, device=device)
    with pytest.raises(UsageError) as caught:
        served_models(pt2, device=other)
    assert f"--device {device}" in str(caught.value.remedy)


def test_what_is_no_configuration_is_bad_data(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("name: 'a' nonsense: 3")
    with pytest.raises(DataError) as caught:
        read_config(tmp_path / "config.pbtxt")
    assert caught.value.where == str(tmp_path / "config.pbtxt")
