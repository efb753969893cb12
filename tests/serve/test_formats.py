"""Facts of serving what is not ONNX for a CPU: in the real Triton where its runner is installed, or on the fakes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.export.deferred import defer_export
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.triton import TritonEmbedder
from kdx.runtime.trusted_plans import FILE
from kdx.serve.environment import find_triton
from kdx.serve.repository import open_repository, write_repository
from kdx.serve.served_model import read_models
from kdx.serve.supervisor import TritonServer


def test_openvino_runs_in_the_server(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    make_photo: Callable[..., bytes],
) -> None:
    pytest.importorskip("openvino")
    try:
        find_triton("openvino")
    except SetupError:
        pytest.skip("no server with OpenVINO: kdx serve install --format openvino")
    checkpoint = open_checkpoint(mini_checkpoint)
    with traced_before():
        export_checkpoint(checkpoint, tmp_path / "exported", format="openvino", samples=parity_samples)
    write_repository(tmp_path / "exported", tmp_path / "repository")
    images, texts = [make_photo(seed) for seed in range(5)], ["a star", "a photo of a dog."]
    with (
        TritonServer(tmp_path / "repository", tmp_path / "log") as server,
        TritonEmbedder(server.url) as client,
        kdx.load(tmp_path / "exported") as local,
    ):
        assert np.abs(client.embed_images(images) - local.embed_images(images)).max() < 1e-5
        assert np.abs(client.embed_texts(texts) - local.embed_texts(texts)).max() < 1e-5


def test_a_deferred_export_is_built_when_it_is_to_be_served_and_found_the_next_time(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    with traced_before():
        deferred = defer_export(checkpoint, tmp_path / "deferred", format="trt", samples=parity_samples).path
    with pytest.raises(UsageError):  # known without TensorRT, and before minutes of building
        write_repository(deferred, tmp_path / "repository", backend="onnxruntime", device="gpu")
    cache: Path = request.getfixturevalue("fake_gpu")  # from here on
    _, out = (
        write_repository(deferred, tmp_path / "repository", backend="tensorrt", device="gpu", overwrite=True)
        for _ in range(2)
    )
    assert open_repository(out).fields == {"backend": "tensorrt", "device": "gpu", "format": "trt"}
    (built,) = (place for place in (cache / "engines").iterdir() if place.is_dir())
    models = {model.name: model for model in read_models(out / "models")}
    for name in ("image_encoder", "text_encoder"):
        engine = out / "models" / name / "1" / models[name].file
        assert engine.read_bytes() == (built / engine.name).read_bytes()
    assert models["image_encoder"].profiles == ("0",) and models["text_encoder"].profiles == ("0", "1")
    assert (
        models["text_encoder"].max_batch_size == open_exported_model(built).options["text"][0]["largest"][0]
    )
    (cache / FILE).unlink()  # Triton itself would load any plan, and a plan carries code
    with pytest.raises(DataError) as caught:
        write_repository(built, tmp_path / "other", backend="tensorrt", device="gpu")
    assert caught.value.where == str(built / "image_encoder.engine")
