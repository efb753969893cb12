"""Facts of kdx/runtime/onnx.py: an exported model in ONNX Runtime, and what it refuses."""

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.runtime import onnx
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.onnx import OnnxEncoder, import_onnxruntime, open_session


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
    encoder._sessions[onnx.IMAGE_FEATURES] = _Session(answer)  # type: ignore[assignment]
    with pytest.raises(kind) as caught:
        encoder.encode_image(_pixels(encoder))
    assert caught.value.where == str(model.image_encoder) and "\n" not in caught.value.what


class _Runtime:
    """Stands in for onnxruntime-gpu; `runs` is what it takes in the end."""

    def __init__(self, runs: str) -> None:
        self.runs = runs
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    class SessionOptions:
        def add_session_config_entry(self, *_: str) -> None: ...

    def InferenceSession(self, path: str, options: object, providers: list[Any]) -> Any:
        self.asked = providers
        return self

    def get_providers(self) -> list[str]:
        return [self.runs, "CPUExecutionProvider"]


def test_on_a_gpu_cuda_is_asked_for_in_full_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "gpu_names", lambda: ["NVIDIA H100"])
    runtime = _Runtime("CUDAExecutionProvider")
    open_session(runtime, Path("image_encoder.onnx"), 1)
    assert runtime.asked == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]


def test_a_silent_fallback_to_the_cpu_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "gpu_names", lambda: ["NVIDIA H100"])
    with pytest.raises(SetupError) as caught:
        open_session(_Runtime("CPUExecutionProvider"), Path("image_encoder.onnx"), 1)
    assert "CUDAExecutionProvider" in caught.value.what


def test_without_a_gpu_onnxruntime_gpu_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "gpu_names", list)
    runtime = _Runtime("CPUExecutionProvider")
    open_session(runtime, Path("image_encoder.onnx"), 1)
    assert runtime.asked == [("CPUExecutionProvider", {})]
