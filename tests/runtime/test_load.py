"""Facts of kdx.load: every form of a model opens by its path or URL, and gives the same embeddings."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import sealed_folder
from kdx.runtime.onnx import OnnxEncoder
from kdx.runtime.torch import TorchEncoder


@pytest.fixture(scope="module")
def run(mini_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student is mini_checkpoint."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with sealed_folder(path, "run") as folder:
        shutil.copytree(mini_checkpoint, folder / "student")
    return path


def test_each_form_opens_with_its_runtime(mini_checkpoint: Path, run: Path, exported_model: Path) -> None:
    for path, form in ((mini_checkpoint, TorchEncoder), (run, TorchEncoder), (exported_model, OnnxEncoder)):
        for given in (path, str(path)):
            with kdx.load(given) as encoder:
                assert type(encoder) is form


def test_all_forms_agree(
    mini_checkpoint: Path, run: Path, exported_model: Path, make_photo: Callable[..., bytes]
) -> None:
    photos, texts = [make_photo(seed) for seed in range(5)], ["a star", "", "two red circles " * 30]
    with kdx.load(mini_checkpoint) as encoder:
        spec, images, words = encoder.spec, encoder.embed_images(photos), encoder.embed_texts(texts)
    for path in (run, exported_model):
        with kdx.load(path) as encoder:
            assert encoder.spec == spec
            assert np.abs(encoder.embed_images(photos) - images).max() < 1e-4
            assert np.abs(encoder.embed_texts(texts) - words).max() < 1e-4


def test_what_is_no_model_is_bad_data_by_its_place(tmp_path: Path) -> None:
    with sealed_folder(tmp_path / "cache", "teacher-cache") as folder:
        (folder / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty", "cache"):
        with pytest.raises(DataError) as caught:
            kdx.load(tmp_path / name)
        assert caught.value.where == str(tmp_path / name) and "kdx import" not in str(caught.value.remedy)


def test_of_other_houses_models_it_says_how_to_read_them(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"weights")
    for name in ("model.pt", "folder"):
        with pytest.raises(DataError) as caught:
            kdx.load(tmp_path / name)
        assert f"kdx import {tmp_path / name} --out" in str(caught.value.remedy)


@pytest.mark.parametrize("url", ["http://localhost:8000", "grpcs://localhost:8001", "grpc://localhost"])
def test_a_url_that_is_no_tritons_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        kdx.load(url)
    assert caught.value.where == url and "grpc://HOST:PORT" in str(caught.value.remedy)


def test_a_port_where_nobody_answers_is_a_setup_error() -> None:
    with socket.socket() as bound:  # bound, so that nobody else listens there, and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(SetupError) as caught:
            kdx.load(url)
    assert caught.value.where == url
