"""Facts of kdx/runtime/onnx.py: an exported model in ONNX Runtime, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.folders import read_json
from kdx.runtime import onnx
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS
from kdx.runtime.exported_model import ExportedModel, open_exported_model, read_exported_model
from kdx.runtime.onnx import OnnxEncoder, import_onnxruntime, open_session, run_bound


@pytest.fixture(scope="module")
def model(exported_model: Path) -> ExportedModel:
    return open_exported_model(exported_model)


@pytest.fixture(scope="module")
def encoder(model: ExportedModel) -> Iterator[OnnxEncoder]:
    with OnnxEncoder(model, num_threads=1) as encoder:
        yield encoder


def _pixels(encoder: OnnxEncoder, count: int = 1) -> np.ndarray:
    size = encoder.spec.image_size
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def test_embeddings_are_unit_rows_in_fp32(encoder: OnnxEncoder) -> None:
    for embeddings in (encoder.encode_image(_pixels(encoder, 3)), encoder.embed_texts(["a", "b c", ""])):
        assert embeddings.shape == (3, encoder.spec.embed_dim) and embeddings.dtype == np.float32
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_what_was_exported_says_its_widths_and_is_cut_to_them(model: ExportedModel, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    shutil.copytree(model.path, folder)
    config = read_json(folder / "config.json")
    config["spec"]["matryoshka_dims"] = [8, model.spec.embed_dim]
    (folder / "config.json").write_text(json.dumps(config))
    with OnnxEncoder(read_exported_model(folder, model.manifest), num_threads=1) as several:
        whole, first = several.embed_texts(["a"]), several.embed_texts(["a"], dimensions=8)
    np.testing.assert_allclose(first[0], whole[0, :8] / np.linalg.norm(whole[0, :8]), atol=1e-6)


def test_an_empty_batch_gives_no_rows_without_a_session(model: ExportedModel) -> None:
    encoder = OnnxEncoder(model)
    size = encoder.spec.image_size
    for empty in (
        encoder.encode_image(np.empty((0, 3, size, size), np.float32)),
        encoder.encode_text(np.empty((0, 2), np.int64)),
    ):
        assert empty.shape == (0, encoder.spec.embed_dim) and empty.dtype == np.float32
    assert not encoder._sessions


def test_wrong_pixels_are_refused(encoder: OnnxEncoder) -> None:
    good = _pixels(encoder)
    double: Any = good.astype(np.float64)
    for wrong in (good[0], good[:, :2], good[..., 1:], double, good.transpose(0, 2, 3, 1)):
        with pytest.raises(UsageError) as caught:
            encoder.encode_image(wrong)
        assert str(list(wrong.shape)) in caught.value.what
    for value in (np.nan, np.inf):
        broken = good.copy()
        broken[0, 1, 2, 3] = value
        with pytest.raises(UsageError):
            encoder.encode_image(broken)


def test_wrong_tokens_are_refused(encoder: OnnxEncoder) -> None:
    length, vocab = encoder.spec.context_length, encoder.spec.vocab_size
    for shape in ((3,), (1, 1), (1, length + 1), (1, 2, 3)):
        with pytest.raises(UsageError) as caught:
            encoder.encode_text(np.ones(shape, np.int64))
        assert str(list(shape)) in caught.value.what and str(length) in caught.value.what
    with pytest.raises(UsageError):
        encoder.encode_text(np.ones((1, 4), np.float32))  # type: ignore[arg-type]
    for wrong in (-1, vocab, 2**32 + 5):  # the last would be a good one when cut to 32 bits
        with pytest.raises(UsageError):
            encoder.encode_text(np.array([[49406, wrong, 49407]]))


def test_the_longest_and_shortest_texts_are_taken_in_any_integer_type(encoder: OnnxEncoder) -> None:
    for length in (2, encoder.spec.context_length):
        tokens = np.full((1, length), 320)
        tokens[0, 0], tokens[0, -1] = 49406, 49407
        rows = [encoder.encode_text(tokens.astype(kind)) for kind in (np.int32, np.int64, np.uint16)]
        assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])


def test_several_threads_share_an_encoder(model: ExportedModel) -> None:
    with OnnxEncoder(model, num_threads=1) as encoder, ThreadPoolExecutor(6) as pool:
        pixels = [_pixels(encoder, 1 + n % 3) for n in range(12)]
        results = list(pool.map(encoder.encode_image, pixels))
        assert len(encoder._sessions) == 1
        for batch, embeddings in zip(pixels, results, strict=True):
            assert np.abs(embeddings - encoder.encode_image(batch)).max() < 1e-5


def test_a_closed_encoder_opens_again_on_use(model: ExportedModel) -> None:
    encoder = OnnxEncoder(model, num_threads=1)
    before = encoder.embed_texts(["a star"])
    encoder.close()
    encoder.close()
    assert not encoder._sessions
    assert np.array_equal(encoder.embed_texts(["a star"]), before)


def test_the_provider_is_named(encoder: OnnxEncoder) -> None:
    assert encoder.provider() in ("CPUExecutionProvider", "CUDAExecutionProvider")


def test_no_threads_are_a_usage_error(model: ExportedModel) -> None:
    with pytest.raises(UsageError):
        OnnxEncoder(model, num_threads=0)


def test_a_target_that_a_precision_has_no_files_for_is_a_usage_error() -> None:
    for precision in ("fp32", "fp16"):
        onnx.check_machine(precision, "cpu")
        with pytest.raises(UsageError) as caught:
            onnx.check_machine(precision, "trt")
        assert precision in caught.value.what


def test_without_onnxruntime_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SetupError) as caught:
        import_onnxruntime()
    assert "kdx[cpu]" in str(caught.value.remedy)


@pytest.fixture
def changeable(exported_model: Path, tmp_path: Path) -> ExportedModel:
    """A copy that has been opened, so that its files are not looked at again."""
    shutil.copytree(exported_model, tmp_path / "copy")
    return open_exported_model(tmp_path / "copy")


def test_a_damaged_graph_is_named(changeable: ExportedModel) -> None:
    changeable.image_encoder.write_bytes(b"no graph")
    with pytest.raises(DataError) as caught:
        OnnxEncoder(changeable).encode_image(_pixels(OnnxEncoder(changeable)))
    assert caught.value.where == str(changeable.image_encoder)


def test_a_graph_with_other_tensors_is_refused(changeable: ExportedModel) -> None:
    shutil.copy(changeable.text_encoder, changeable.image_encoder)
    with pytest.raises(DataError) as caught:
        OnnxEncoder(changeable).encode_image(_pixels(OnnxEncoder(changeable)))
    assert caught.value.where == str(changeable.image_encoder)
    assert "text_features" in caught.value.what and "pixels" in caught.value.what


class _Session:
    """A graph that answers what it is told to."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def __init__(self, answer: np.ndarray | Exception) -> None:
        self.answer = answer

    def run(self, *_: object) -> list[np.ndarray]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (np.full((1, 64), np.nan, np.float32), DataError),
        (np.ones((2, 64), np.float32), DataError),
        (np.ones((1, 64), np.float16), DataError),
        (RuntimeError("bad node\nmore"), DataError),
        (RuntimeError("Failed to allocate memory for requested buffer of size 5"), SetupError),
        (RuntimeError("CUDA failure 2: out of memory"), SetupError),
        (MemoryError(), SetupError),
    ],
)
def test_what_a_graph_does_wrong_is_the_files_fault_or_the_machines(
    model: ExportedModel, answer: np.ndarray | Exception, kind: type[KdxError]
) -> None:
    encoder = OnnxEncoder(model)
    encoder._sessions[IMAGE_FEATURES] = _Session(answer)  # type: ignore[assignment]
    with pytest.raises(kind) as caught:
        encoder.encode_image(_pixels(encoder))
    assert caught.value.where == str(model.image_encoder) and "\n" not in caught.value.what


class _OrtValue:
    """A tensor that knows which device it was put on."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.array, self.device = array, device

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, device_id: int) -> Any:
        assert array.flags.c_contiguous and device_id == 0
        return cls(array, device)


class _Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, _OrtValue] = {}
        self.outputs: dict[str, str] = {}
        self.answer: np.ndarray | None = None

    def bind_ortvalue_input(self, name: str, value: _OrtValue) -> None:
        self.inputs[name] = value

    def bind_output(self, name: str, device: str) -> None:
        self.outputs[name] = device

    def copy_outputs_to_cpu(self) -> list[np.ndarray | None]:
        return [self.answer]


class _CudaSession:
    """A session of onnxruntime-gpu: answers the batch's first components, and runs nothing without a binding."""

    def __init__(self, runtime: _Runtime, path: str) -> None:
        self.runtime, self.image = runtime, "image" in path
        self.bound: list[_Binding] = []

    def get_providers(self) -> list[str]:
        return [self.runtime.runs, "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {self.runtime.runs: {"device_id": "0", "use_tf32": self.runtime.tf32}}

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=PIXELS if self.image else TOKENS)]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=IMAGE_FEATURES if self.image else TEXT_FEATURES)]

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, binding: _Binding) -> None:
        (value,) = binding.inputs.values()
        binding.answer = np.resize(value.array.astype(np.float32), (len(value.array), 64))
        self.bound.append(binding)


class _Runtime:
    """Stands in for onnxruntime-gpu; `runs` is what it takes in the end, `tf32` what it says of that option."""

    OrtValue = _OrtValue

    def __init__(self, runs: str, tf32: str = "0") -> None:
        self.runs, self.tf32 = runs, tf32
        self.asked: list[Any] = []
        self.disabled: list[list[str]] = []
        self.sessions: list[_CudaSession] = []

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    class SessionOptions:
        def add_session_config_entry(self, *_: str) -> None: ...

    def InferenceSession(
        self,
        path: str,
        options: object,
        providers: list[Any],
        disabled_optimizers: list[str],
        enable_fallback: int,
    ) -> Any:
        assert not enable_fallback  # its second try would forget disabled_optimizers
        self.asked = providers
        self.disabled.append(disabled_optimizers)
        self.sessions.append(_CudaSession(self, path))
        return self.sessions[-1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "gpu_names", lambda: ["NVIDIA H100"])


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_cuda_is_asked_for_in_full_fp32() -> None:
    runtime = _Runtime("CUDAExecutionProvider")
    open_session(runtime, Path("image_encoder.onnx"), 1)
    assert runtime.asked == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]


@pytest.mark.usefixtures("gpu")
def test_a_silent_fallback_to_the_cpu_is_a_setup_error() -> None:
    with pytest.raises(SetupError) as caught:
        open_session(_Runtime("CPUExecutionProvider"), Path("image_encoder.onnx"), 1)
    assert "CUDAExecutionProvider" in caught.value.what


@pytest.mark.usefixtures("gpu")
def test_a_provider_that_does_not_take_the_stated_arithmetic_is_a_setup_error() -> None:
    with pytest.raises(SetupError) as caught:
        open_session(_Runtime("CUDAExecutionProvider", tf32="1"), Path("image_encoder.onnx"), 1)
    assert "use_tf32" in caught.value.what


def test_without_a_gpu_onnxruntime_gpu_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "gpu_names", list)
    runtime = _Runtime("CPUExecutionProvider")
    open_session(runtime, Path("image_encoder.onnx"), 1)
    assert runtime.asked == [("CPUExecutionProvider", {})]


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_both_towers_are_asserted_and_bind_input_and_output_to_its_memory(
    model: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = _Runtime("CUDAExecutionProvider")
    monkeypatch.setattr(onnx, "import_onnxruntime", lambda: runtime)
    encoder = OnnxEncoder(model)
    pixels = _pixels(encoder, 2)[:, :, ::-1]  # not contiguous
    embeddings = encoder.encode_image(pixels), encoder.encode_text(np.full((2, 5), 320))
    assert encoder.provider() == "CUDAExecutionProvider" and len(runtime.sessions) == 2
    for session, answer, names, kind in zip(
        runtime.sessions,
        embeddings,
        [(PIXELS, IMAGE_FEATURES), (TOKENS, TEXT_FEATURES)],
        [np.float32, np.int32],
        strict=True,
    ):
        (binding,) = session.bound
        value = binding.inputs[names[0]]
        assert value.device == "cuda" and value.array.dtype == kind
        assert binding.outputs == {names[1]: "cuda"}
        assert answer.shape == (2, 64) and answer.dtype == np.float32


def test_a_bound_run_gives_the_bytes_of_a_plain_one(model: ExportedModel) -> None:
    """onnxruntime itself, with the CPU in the GPU's place."""
    with OnnxEncoder(model, num_threads=1) as encoder:
        pixels, tokens = _pixels(encoder, 3), np.full((3, 5), 320, np.int32)
        plain = encoder.encode_image(pixels), encoder.encode_text(tokens)
        image, text = encoder._sessions[IMAGE_FEATURES], encoder._sessions[TEXT_FEATURES]
        assert np.array_equal(run_bound(image, encoder._image, pixels, "cpu"), plain[0])
        assert np.array_equal(run_bound(text, encoder._text, tokens, "cpu"), plain[1])


def test_optimizers_that_a_tower_does_not_bear_are_disabled_for_it_alone(
    model: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "gpu_names", list)
    runtime = _Runtime("CPUExecutionProvider")
    monkeypatch.setattr(onnx, "import_onnxruntime", lambda: runtime)
    disabled = {"disabled_optimizers": {"text_encoder": ["MatmulTransposeFusion"]}}
    OnnxEncoder(replace(model, options=disabled)).provider()
    assert runtime.disabled == [[], ["MatmulTransposeFusion"]]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_real_gpu_both_towers_run_in_cuda_and_pass_the_gate(
    mini_checkpoint: Path, parity_samples: Any, tmp_path: Path, precision: str
) -> None:
    from kdx.core.provenance import gpu_names
    from kdx.export import export_checkpoint
    from kdx.models.checkpoint import open_checkpoint

    if not gpu_names() or "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        pytest.skip("there is no GPU, or no onnxruntime-gpu")
    checkpoint = open_checkpoint(mini_checkpoint)
    exported = export_checkpoint(
        checkpoint, tmp_path / "exported", samples=parity_samples, format="onnx", precision=precision
    )
    with exported.open() as encoder:
        assert isinstance(encoder, OnnxEncoder) and encoder.provider() == "CUDAExecutionProvider"
        rows = encoder.encode_image(_pixels(encoder, 7))
        assert np.abs(rows[:1] - encoder.encode_image(_pixels(encoder, 7)[:1])).max() < 1e-3
    assert exported.parity()["verdict"] == "PASS"
    assert next(checkpoint.model.parameters()).device.type == "cpu"
