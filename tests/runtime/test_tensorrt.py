"""Facts of kdx/runtime/tensorrt.py and trusted_plans.py, on the TensorRT and CUDA of tests/fakes: kdx's own logic.

The tests marked `trt` run the same on a real GPU.
"""

from __future__ import annotations

import importlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdx
from kdx.core.encoder import Encoder
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import Manifest, sealed_folder
from kdx.core.tokenizers import open_tokenizer
from kdx.export.tensorrt import build_engines
from kdx.export.tensorrt_plan import default_plan
from kdx.runtime.exported_model import KIND, ExportedModel, open_exported_model, read_exported_model
from kdx.runtime.tensorrt import Bucket, TensorRTEncoder, Tower


@pytest.fixture
def engines(fake_gpu: Path, exported_model: Path, tmp_path: Path) -> ExportedModel:
    """The engines of exported_model, as they are before the folder is sealed."""
    return _build(exported_model, tmp_path / "engines")


def _build(exported_model: Path, folder: Path) -> ExportedModel:
    source = open_exported_model(exported_model)
    folder.mkdir()
    options = build_engines("trt", exported_model, folder, default_plan(source.spec))
    open_tokenizer(source.path).save(folder)
    config = {
        "format": "trt",
        "precision": "fp32",
        "target": "trt",
        "spec": source.spec.to_dict(),
        "options": options,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return read_exported_model(folder, Manifest(KIND, schema=1, created="", digest={}, provenance={}))


@pytest.fixture
def cuda(engines: ExportedModel) -> Any:
    return importlib.import_module("cuda.bindings.runtime")


@pytest.fixture(scope="module")
def reference(exported_model: Path) -> Iterator[Encoder]:
    with open_exported_model(exported_model).open() as encoder:
        yield encoder


def _pixels(batch: int, size: int = 32) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(batch).standard_normal((batch, 3, size, size), dtype=np.float32)


def _tokens(batch: int, length: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    tokens = np.random.default_rng(length).integers(1, 49405, (batch, length), dtype=np.int32)
    tokens[:, -1] = 49407
    return tokens


def test_any_batch_gives_the_rows_of_the_graph(engines: ExportedModel, reference: Encoder) -> None:
    with engines.open() as encoder:
        for batch in (1, 3, 64, 65, 130):
            pixels = _pixels(batch)
            features = encoder.encode_image(pixels)
            assert features.shape == (batch, engines.spec.embed_dim)
            assert np.abs(features - reference.encode_image(pixels)).max() < 1e-6
        assert encoder.encode_image(pixels[:0]).shape == (0, engines.spec.embed_dim)


def test_any_length_gives_the_rows_of_the_graph(engines: ExportedModel, reference: Encoder) -> None:
    with engines.open() as encoder:
        for length in (2, 7, 8, 9, 16, 17, 31, 32):
            tokens = _tokens(3, length)
            features = encoder.encode_text(tokens)
            assert np.abs(features - reference.encode_text(tokens)).max() < 1e-6
            assert np.array_equal(encoder.encode_text(tokens.astype(np.int64)), features)


def test_texts_are_padded_to_their_bucket_with_the_models_own_token(engines: ExportedModel) -> None:
    with TensorRTEncoder(replace(engines, spec=replace(engines.spec, pad_id=7))) as encoder:
        encoder.encode_text(_tokens(3, 5))
        (tower,) = encoder._towers.values()  # pyright: ignore[reportPrivateUsage]
        asked = tower._host_input.array((4, 8), np.int32)  # pyright: ignore[reportPrivateUsage]
        assert np.array_equal(asked[:3, :5], _tokens(3, 5))
        assert (asked[3:] == 7).all() and (asked[:, 5:] == 7).all()


def test_requests_are_padded_to_few_buckets_each_with_its_graph_and_profile(
    engines: ExportedModel, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdx.runtime import tensorrt

    made: list[tuple[int, tuple[int, ...]]] = []
    make = tensorrt.Tower._make_bucket  # pyright: ignore[reportPrivateUsage]

    def noting(self: Any, profile: int, shape: tuple[int, ...]) -> Any:
        made.append((profile, shape))
        return make(self, profile, shape)

    monkeypatch.setattr(tensorrt.Tower, "_make_bucket", noting)
    with TensorRTEncoder(engines) as encoder:
        for batch, length in [(1, 2), (1, 8), (3, 5), (4, 8), (4, 9), (2, 16), (2, 17), (2, 32)]:
            launched = cuda.launches
            encoder.encode_text(_tokens(batch, length))
            assert cuda.launches == launched + 1
    assert made == [(0, (1, 8)), (0, (4, 8)), (0, (4, 16)), (0, (2, 16)), (1, (2, 32))]


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    engines: ExportedModel, reference: Encoder, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    invalid = cuda.cudaError_t.cudaErrorInvalidValue
    end = cuda.cudaStreamEndCapture
    monkeypatch.setattr(cuda, "cudaStreamEndCapture", lambda stream: (invalid, end(stream)[1]))
    launched = cuda.launches
    with engines.open() as encoder:
        for _ in range(2):
            difference = encoder.encode_image(_pixels(2)) - reference.encode_image(_pixels(2))
            assert np.abs(difference).max() < 1e-6
    assert cuda.launches == launched


def test_a_graph_whose_capture_met_a_fault_is_given_back(
    engines: ExportedModel, reference: Encoder, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, destroy = Tower._enqueue, cuda.cudaGraphDestroy
    enqueued: list[Bucket] = []
    destroyed: list[Any] = []

    def fail_at_the_capture(tower: Tower, bucket: Bucket) -> None:
        enqueued.append(bucket)
        if len(enqueued) == 2:
            raise DataError("does not run")
        enqueue(tower, bucket)

    monkeypatch.setattr(Tower, "_enqueue", fail_at_the_capture)
    monkeypatch.setattr(cuda, "cudaGraphDestroy", lambda graph: (destroyed.append(graph), destroy(graph))[1])
    with engines.open() as encoder:
        difference = encoder.encode_image(_pixels(2)) - reference.encode_image(_pixels(2))
    assert np.abs(difference).max() < 1e-6 and len(destroyed) == 1


def test_threads_share_an_encoder(engines: ExportedModel, reference: Encoder) -> None:
    answers: dict[int, bool] = {}
    with engines.open() as encoder:

        def ask(number: int) -> None:
            for batch in (1, 2, 5):
                pixels, tokens = _pixels(batch) * number, _tokens(batch, 4 + number)
                image = np.abs(encoder.encode_image(pixels) - reference.encode_image(pixels)).max()
                text = np.abs(encoder.encode_text(tokens) - reference.encode_text(tokens)).max()
                answers[number] = answers.get(number, True) and max(image, text) < 1e-6

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == dict.fromkeys(range(1, 7), True)


def test_closing_gives_everything_back(engines: ExportedModel, cuda: Any) -> None:
    encoder = engines.open()
    encoder.encode_image(_pixels(2))
    encoder.encode_text(_tokens(2, 4))
    assert len(cuda.device) == 6 and len(cuda.host) == 4 and len(cuda.streams) == 2
    encoder.close()
    encoder.close()
    assert not cuda.device and not cuda.host and not cuda.streams


def test_a_gpu_without_memory_is_the_machines_fault_and_nothing_stays_allocated(
    engines: ExportedModel, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt import ICudaEngine  # pyright: ignore[reportMissingImports]

    init = ICudaEngine.__init__

    def hungry(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.device_memory_size_v2 = 2**40

    monkeypatch.setattr(ICudaEngine, "__init__", hungry)
    with engines.open() as encoder, pytest.raises(SetupError) as caught:
        encoder.encode_image(_pixels(1))
    assert "cudaErrorMemoryAllocation" in caught.value.what
    assert not cuda.device and not cuda.host and not cuda.streams


def test_wrong_pixels_and_tokens_are_the_callers_fault(engines: ExportedModel) -> None:
    with engines.open() as encoder:
        with pytest.raises(UsageError):
            encoder.encode_image(_pixels(1, 16))
        with pytest.raises(UsageError):
            encoder.encode_text(_tokens(1, 33))


# What is never loaded


def test_a_plan_that_was_not_built_here_is_not_loaded_even_from_a_sealed_folder(
    engines: ExportedModel, fake_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("the plan reached TensorRT")

    monkeypatch.setattr("tensorrt.Runtime.deserialize_cuda_engine", loaded)
    (fake_gpu / "trusted-plans").unlink()
    with sealed_folder(tmp_path / "foreign", KIND) as folder:
        shutil.copytree(engines.path, folder, dirs_exist_ok=True)
        (folder / "parity.json").write_text("{}")
    with kdx.load(tmp_path / "foreign") as encoder, pytest.raises(DataError) as caught:
        encoder.embed_texts(["a star."])
    assert "kdx export --finish" in str(caught.value.remedy)


def test_a_plan_of_other_bytes_is_not_loaded(engines: ExportedModel) -> None:
    with engines.image_encoder.open("ab") as file:
        file.write(b" ")
    with engines.open() as encoder, pytest.raises(DataError):
        encoder.encode_image(_pixels(1))


def test_a_list_of_plans_that_others_may_write_is_not_believed(
    engines: ExportedModel, fake_gpu: Path
) -> None:
    (fake_gpu / "trusted-plans").chmod(0o666)
    with engines.open() as encoder, pytest.raises(SetupError):
        encoder.encode_image(_pixels(1))


def test_the_list_of_plans_is_for_its_user_alone(engines: ExportedModel, fake_gpu: Path) -> None:
    assert (fake_gpu / "trusted-plans").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"version": "10.16.1.11"}, ("10.16.1.11", "11.4.0.106")),
        ({"gpu": "NVIDIA L4", "compute_capability": "8.9"}, ("NVIDIA L4", "8.9", "Fake GPU", "9.0")),
        ({"gpu": "NVIDIA H100", "compute_capability": "9.0"}, ("NVIDIA H100", "Fake GPU")),
    ],
)
def test_another_version_or_gpu_is_refused_with_both_names(
    options: dict[str, str], named: tuple[str, ...], engines: ExportedModel
) -> None:
    with pytest.raises(SetupError) as caught:
        replace(engines, options={**engines.options, **options}).open()
    assert all(name in caught.value.what for name in named)


def test_an_engine_for_one_compute_capability_runs_on_its_other_gpus(
    engines: ExportedModel, reference: Encoder
) -> None:
    options = {**engines.options, "gpu": "NVIDIA H100", "hardware_compatibility": "SAME_COMPUTE_CAPABILITY"}
    with replace(engines, options=options).open() as encoder:
        difference = encoder.encode_image(_pixels(1)) - reference.encode_image(_pixels(1))
        assert np.abs(difference).max() < 1e-6


def test_options_that_say_nothing_of_the_build_are_refused(engines: ExportedModel) -> None:
    with pytest.raises(DataError):
        replace(engines, options={}).open()


def test_a_plan_that_tensorrt_refuses_is_named_with_its_reason(
    engines: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(tensorrt, "__version__", "11.5.0.1")
    options = {**engines.options, "version": "11.5.0.1"}  # as if the record were wrong
    with replace(engines, options=options).open() as encoder, pytest.raises(DataError) as caught:
        encoder.encode_image(_pixels(1))
    assert "not compatible" in caught.value.what


# Machines


@pytest.mark.parametrize(
    ("name", "major", "minor", "precision", "format_name"),
    [
        ("NVIDIA T4", 7, 5, "bf16", "trt"),  # no bf16 before Ampere
        ("NVIDIA H100", 9, 0, "fp32", "trt-rtx"),  # no RTX GPU
    ],
)
def test_a_gpu_that_lacks_the_precision_or_runtime_is_refused_before_work(
    name: str, major: int, minor: int, precision: str, format_name: str
) -> None:
    from kdx.runtime.cuda import Gpu
    from kdx.runtime.tensorrt import check_gpu

    trt: Any = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(SetupError) as caught:
        check_gpu(trt, format_name, Gpu(name, f"{major}.{minor}"), precision)
    assert name in caught.value.what
    check_gpu(trt, "trt-rtx", Gpu("NVIDIA RTX 4090", "8.9"), "bf16")


# On a GPU


@pytest.mark.trt
@pytest.mark.gpu
def test_real_engines_give_the_rows_of_the_graph(
    exported_model: Path, reference: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    engines = _build(exported_model, tmp_path / "engines")
    with engines.open() as encoder:
        for batch in (1, 3, 64, 65):
            pixels, tokens = _pixels(batch), _tokens(batch, 2 + batch % 30)
            for _ in range(2):  # the second call launches the captured graph
                image, text = encoder.encode_image(pixels), encoder.encode_text(tokens)
                assert np.abs(image - reference.encode_image(pixels)).max() < 1e-4
                assert np.abs(text - reference.encode_text(tokens)).max() < 1e-4
