"""Facts of the repositories for Triton's own backends, run by the real Triton with python in the encoders' place.

The Triton of these tests has the python backend alone. So the two encoders keep their names, tensors and batching, and
their configuration names another backend and device: all else is what NVIDIA's container is given.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.encoder import Embedder
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import sealed_folder
from kdx.runtime.onnx import OnnxEncoder
from kdx.runtime.triton import TritonConnection, TritonEmbedder
from kdx.runtime.triton_requests import to_bytes_column
from kdx.serve.layout import ENCODERS
from kdx.serve.probe import find_models, probe
from kdx.serve.repository import KIND, MODEL, write_repository
from kdx.serve.served_model import config_text, read_config
from kdx.serve.supervisor import TritonServer

FIELDS = {"format": "onnx", "device": "cpu"}


def _with_stand_ins(native: Path, out: Path) -> Path:
    """The repository with the encoders in the python backend on the CPU."""
    with sealed_folder(out, KIND, fields=FIELDS) as folder:
        shutil.copytree(native, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        for name in ENCODERS:
            place = folder / "models" / name
            model = read_config(place / "config.pbtxt")
            (place / "1" / model.file).unlink()
            stand_in = replace(model, backend="python", device="cpu", file="model.py")
            (place / "config.pbtxt").write_text(config_text(stand_in))
            (place / "1" / "model.py").write_text(MODEL.format(name=name))
    return out


@pytest.fixture(scope="module")
def native(exported_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("native") / "repository"
    return write_repository(exported_model, out, backend="onnxruntime", device="gpu")


@pytest.fixture(scope="module")
def server(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("server")
    with TritonServer(_with_stand_ins(native, folder / "repository"), folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[TritonEmbedder]:
    with TritonEmbedder(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def local(exported_model: Path) -> Iterator[Embedder]:
    with kdx.load(exported_model) as embedder:
        yield embedder


def test_the_encoders_files_lie_where_triton_opens_them_and_once(native: Path) -> None:
    for name in ENCODERS:
        file = native / "models" / name / "1" / f"{name}.onnx"
        assert file.samefile(native / "exported-model" / file.name)
        assert list(file.parent.iterdir()) == [file]


def test_python_has_no_onnx_runtime_to_install_where_triton_brings_it(native: Path) -> None:
    packages = {line.split("==")[0] for line in (native / "requirements.txt").read_text().splitlines()}
    assert {"numpy", "pillow", "tokenizers"} <= packages and "onnxruntime" not in packages


def test_embeddings_and_classes_equal_those_in_process(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(seed, 20 + 5 * seed) for seed in range(20)]
    assert np.abs(client.embed_images(images) - local.embed_images(images)).max() < 1e-5
    texts = ["a star", "", "émile 🙂 你好", "word " * 200, *["x"] * 70]
    assert np.abs(client.embed_texts(texts) - local.embed_texts(texts)).max() < 1e-5
    labels = ["circle", "square", "star"]
    served, own = client.classify(images, labels), local.classify(images, labels)
    assert [[label for label, _ in best] for best in served] == [[label for label, _ in best] for best in own]
    assert client.spec == local.spec


def test_the_encoders_take_tensors(
    server: TritonServer, local: OnnxEncoder, make_photo: Callable[..., bytes]
) -> None:
    connection = TritonConnection(server.url)
    pixels = np.stack([local.preprocess(make_photo(seed)) for seed in range(3)])
    (features,) = connection.infer("image_encoder", {"pixels": pixels}, ["image_features"]).values()
    assert np.abs(features - local.encode_image(pixels)).max() < 1e-5

    def embed(text: str) -> bool:  # of different lengths at the same time
        tokens = local.spec.pad([local.tokenizer.encode(text, 77)])
        (features,) = connection.infer("text_encoder", {"tokens": tokens}, ["text_features"]).values()
        return bool(np.abs(features - local.encode_text(tokens)).max() < 1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(embed, ["word " * (count % 5) for count in range(40)]))
    for name, tensor, output in (
        ("image_encoder", np.full_like(pixels, np.nan), "image_features"),
        ("text_encoder", np.full((1, 3), 10**6, np.int32), "text_features"),
    ):
        with pytest.raises(UsageError):
            connection.infer(name, {"pixels" if "image" in name else "tokens": tensor}, [output])
    connection.close()


def test_a_bad_image_hurts_no_other_request_and_never_reaches_the_encoder(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    good = make_photo(3)
    expected = local.embed_images([good])

    def ask(number: int) -> bool:
        if number % 3 == 0:
            with pytest.raises(DataError) as caught:
                client.embed_images([good, b"broken"])
            return caught.value.where == "images[1]"
        return bool(np.abs(client.embed_images([good]) - expected).max() < 1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))


def test_triton_joins_the_requests_of_several_clients_for_the_encoder(
    client: TritonEmbedder, server: TritonServer, make_photo: Callable[..., bytes]
) -> None:
    before = _settled(client)
    images = [make_photo(seed, 300) for seed in range(64)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda image: client.embed_images([image]), images))
    after = _settled(client)
    assert after["embed_image"] - before["embed_image"] == 64
    assert after["image_encoder"] - before["image_encoder"] < 64  # one call of each batch of embed_image


def _settled(client: TritonEmbedder) -> dict[str, int]:
    """How many requests each model has answered. Triton counts an answer some time after it has sent it."""
    last: dict[str, int] | None = None
    while last != (counts := client.connection.count_answered()):
        last = counts
        time.sleep(0.5)
    return counts


def test_the_probe_walks_what_the_server_has(server: TritonServer) -> None:
    connection = TritonConnection(server.url)
    models = find_models(connection)
    assert [model.name for model in models] == [model.name for model in server.models]
    assert list(probe(connection, models)) == sorted(["embed_image", "embed_text", "zero_shot", *ENCODERS])
    connection.close()


def test_a_native_repository_is_for_the_container_and_kdx_says_so(native: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, TritonServer(native, tmp_path / "log"):
        pass
    assert "onnxruntime" in caught.value.what and "docs/serving.md" in str(caught.value.remedy)


def test_an_empty_request_to_an_encoder_is_refused(server: TritonServer) -> None:
    connection = TritonConnection(server.url)
    with pytest.raises(UsageError):
        connection.infer("embed_image", {"image": to_bytes_column([])}, ["embedding"])
    connection.close()
