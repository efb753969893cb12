"""Facts of kdx/runtime/triton.py that need no server; tests/serve/test_served.py asks a real one."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingTypeStubs]

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.triton import (
    BusyError,
    TritonConnection,
    TritonEmbedder,
)
from kdx.runtime.triton_requests import to_bytes_column, to_message

URL = "grpc://localhost:8001"


class _Client:
    """Stands in for tritonclient's: answers what it is told to, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, list[Any]]] = []

    def _answer(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def infer(self, model: str, inputs: list[Any], **_: object) -> Any:
        self.asked.append((model, inputs))
        return self._answer()

    def get_model_config(self, *_: object, **__: object) -> Any:
        return self._answer()

    def close(self) -> None: ...


def _connection(answer: Any) -> TritonConnection:
    connection = TritonConnection(URL)
    connection.close()
    connection._client = _Client(answer)
    return connection


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost:8001", "grpc://localhost", "grpc://grpc://a:1"]
)
def test_what_is_no_host_and_port_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        TritonConnection(url)
    assert caught.value.where == url


def test_a_proxy_on_the_way_is_named_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://user:secret@proxy:3128")
    connection = TritonConnection("grpc://triton:8001")
    connection.close()
    connection._client = _Client(
        InferenceServerException("failed to connect", status="StatusCode.UNAVAILABLE")
    )
    with pytest.raises(SetupError) as caught:
        connection.read_spec()
    assert "proxy:3128" in caught.value.what and "secret" not in str(caught.value)
    assert "no_proxy=triton" in str(caught.value.remedy)


def test_the_scheme_may_be_left_out() -> None:
    connection = TritonConnection("localhost:8001")
    assert connection.url == URL
    connection.close()


@pytest.mark.parametrize(
    ("status", "message", "kind", "what"),
    [
        ("StatusCode.INVALID_ARGUMENT", "[request id: 1] batch-size", UsageError, "batch-size"),
        ("StatusCode.NOT_FOUND", "unknown model", DataError, "embed_image"),
        ("StatusCode.DEADLINE_EXCEEDED", "", BusyError, "embed_image"),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", BusyError, "embed_image"),
        ("StatusCode.UNAVAILABLE", "failed to connect", SetupError, ""),
        ("StatusCode.INTERNAL", "the model failed\nat line 3", SetupError, "the model failed"),
        ("StatusCode.INTERNAL", to_message(SetupError("the model failed")), SetupError, "the model failed"),
        (None, "odd", SetupError, "odd"),
        ("StatusCode.UNKNOWN", "", SetupError, "StatusCode.UNKNOWN"),
        (None, "", SetupError, "embed_image"),
    ],
)
def test_a_servers_refusal_says_whose_fault_it_is(
    status: str | None, message: str, kind: type[KdxError], what: str
) -> None:
    connection = _connection(InferenceServerException(message, status=status))
    with pytest.raises(KdxError) as caught:
        connection.infer("embed_image", {"image": to_bytes_column([b"x"])}, ["embedding"])
    assert type(caught.value) is kind and what in caught.value.what and "\n" not in caught.value.what
    assert caught.value.where in (URL, "embed_image") and caught.value.remedy


def test_an_answer_without_the_output_is_bad_data() -> None:
    class Empty:
        def as_numpy(self, name: str) -> None: ...

    with pytest.raises(DataError) as caught:
        _connection(Empty()).infer("embed_text", {"text": to_bytes_column([b"x"])}, ["embedding"])
    assert caught.value.where == URL and "embedding" in caught.value.what


def test_arrays_are_sent_as_the_type_that_they_have() -> None:
    class Echo:
        def as_numpy(self, name: str) -> np.ndarray:
            return np.zeros(1)

    connection = _connection(Echo())
    arrays = {"a": to_bytes_column([b"x"]), "b": np.array([1], np.int32), "c": np.array([1], np.float32)}
    connection.infer("model", arrays, ["out"])
    ((model, inputs),) = connection._client.asked
    assert model == "model"
    assert [(t.name(), t.datatype(), list(t.shape())) for t in inputs] == [
        ("a", "BYTES", [1, 1]),
        ("b", "INT32", [1]),
        ("c", "FP32", [1]),
    ]


def test_the_spec_is_read_from_the_models_parameters(exported_model: Path) -> None:
    spec = open_exported_model(exported_model).spec
    parameters = {"spec": {"string_value": json.dumps(spec.to_dict())}}
    assert _connection({"config": {"parameters": parameters}}).read_spec() == spec


@pytest.mark.parametrize(
    "config",
    [
        {"config": {}},
        {"config": {"parameters": {}}},
        {"config": {"parameters": {"spec": {"string_value": "{"}}}},
    ],
)
def test_a_server_of_other_models_is_bad_data(config: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        _connection(config).read_spec()
    assert caught.value.where == URL


class _Connection:
    """Answers each request with numbers that say which row of which request it was."""

    url = URL

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.sent: list[bytes] = []

    def infer(
        self, model: str, inputs: dict[str, np.ndarray], outputs: list[str], *_: object
    ) -> dict[str, np.ndarray]:
        (column,) = inputs.values()
        self.sizes.append(len(column))
        self.sent += column[:, 0].tolist()
        return {"embedding": np.array([[float(len(value))] for value in column[:, 0]], np.float32)}


@pytest.fixture
def embedder(exported_model: Path) -> TritonEmbedder:
    embedder = TritonEmbedder.__new__(TritonEmbedder)
    spec: EncoderSpec = open_exported_model(exported_model).spec
    embedder.spec, embedder.connection = spec, _Connection()  # type: ignore[assignment]
    return embedder


def test_requests_hold_what_the_server_takes_at_once(embedder: TritonEmbedder) -> None:
    sizes: list[int] = embedder.connection.sizes  # type: ignore[attr-defined]
    images = embedder.embed_images([b"x" * n for n in range(1, 36)])
    assert images[:, 0].tolist() == list(range(1, 36)) and sizes == [16, 16, 3]
    sizes.clear()
    texts = embedder.embed_texts(["y" * n for n in range(1, 131)], batch_size=1000)
    assert texts[:, 0].tolist() == list(range(1, 131)) and sizes == [64, 64, 2]
    sizes.clear()
    assert len(embedder.embed_texts(["a", "b", "c"], batch_size=2)) == 3 and sizes == [2, 1]


def test_the_first_dimensions_of_what_the_server_answers_are_given(embedder: TritonEmbedder) -> None:
    embedder.spec = replace(embedder.spec, embed_dim=2, matryoshka_dims=(1, 2))
    rows = {"embedding": np.array([[0.6, 0.8]], np.float32)}
    embedder.connection.infer = lambda *_, **__: rows  # type: ignore[method-assign]
    assert embedder.embed_texts(["a"]).tolist() == rows["embedding"].tolist()
    assert embedder.embed_texts(["a"], dimensions=1).tolist() == [[1]]
    assert embedder.embed_images([b"x"], dimensions=1).tolist() == [[1]]
    with pytest.raises(UsageError, match="1 or 2 numbers"):
        embedder.embed_images([b"x"], dimensions=3)


def test_nothing_asks_nothing(embedder: TritonEmbedder) -> None:
    assert embedder.embed_images([]).shape == embedder.embed_texts([]).shape == (0, embedder.spec.embed_dim)
    assert embedder.connection.sizes == []  # type: ignore[attr-defined]


def test_a_column_keeps_nul_bytes_and_empty_values() -> None:
    values = [b"a\x00", b"", b"\x00\x00"]
    column = to_bytes_column(values)
    assert column.shape == (3, 1) and column[:, 0].tolist() == values


def test_a_file_is_sent_as_it_is_and_a_pil_image_as_its_rgb(
    embedder: TritonEmbedder, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    photo = make_photo(0)
    (tmp_path / "photo.jpg").write_bytes(photo)
    decoded = Image.open(io.BytesIO(photo))
    embedder.embed_images(
        [photo, tmp_path / "photo.jpg", str(tmp_path / "photo.jpg"), decoded, decoded.convert("CMYK")]
    )
    sent: list[bytes] = embedder.connection.sent  # type: ignore[attr-defined]
    assert sent[:3] == [photo] * 3
    assert Image.open(io.BytesIO(sent[3])).tobytes() == decoded.tobytes()
    assert Image.open(io.BytesIO(sent[4])).mode == "RGB"


def test_what_the_server_refuses_is_numbered_among_all_images(embedder: TritonEmbedder) -> None:
    message = to_message(DataError("is not an image", where="images[2]", remedy="convert it"))
    refused = InferenceServerException(message, status="StatusCode.INVALID_ARGUMENT")
    embedder.connection = _connection(refused)
    with pytest.raises(DataError) as caught:
        embedder.embed_images([b"x"] * 5, batch_size=5)
    assert caught.value.where == "images[2]" and caught.value.what == "is not an image"
