"""Facts of kdx/runtime/triton.py that need no server; tests/serve/test_served.py asks a real one."""

import io
import json
from collections.abc import Callable
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
    TritonConnection,
    TritonEncoder,
    encode_utf8,
    read_image_bytes,
    to_bytes_column,
)

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
    with pytest.raises(UsageError, match="is not the URL of a Triton server"):
        TritonConnection(url)


def test_the_scheme_may_be_left_out() -> None:
    connection = TritonConnection("localhost:8001")
    assert connection.url == URL
    connection.close()


@pytest.mark.parametrize(
    ("status", "message", "kind", "what"),
    [
        ("StatusCode.INVALID_ARGUMENT", "bad input: not an image", DataError, "embed_image: not an image"),
        ("StatusCode.NOT_FOUND", "unknown model", DataError, "does not serve embed_image"),
        ("StatusCode.DEADLINE_EXCEEDED", "", SetupError, "embed_image did not answer in time"),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", SetupError, "embed_image is overloaded"),
        ("StatusCode.UNAVAILABLE", "failed to connect", SetupError, "no Triton server answers here"),
        (
            "StatusCode.INTERNAL",
            "the model failed\nat line 3",
            SetupError,
            "embed_image failed: the model failed$",
        ),
        (None, "odd", SetupError, "embed_image failed: odd"),
        ("StatusCode.UNKNOWN", "", SetupError, r"embed_image failed: StatusCode\.UNKNOWN"),
        (None, "", SetupError, "embed_image failed: no reason given"),
    ],
)
def test_a_servers_refusal_says_whose_fault_it_is(
    status: str | None, message: str, kind: type[KdxError], what: str
) -> None:
    connection = _connection(InferenceServerException(message, status=status))
    with pytest.raises(kind, match=what) as caught:
        connection.infer("embed_image", {"image": to_bytes_column([b"x"])}, ["embedding"])
    assert caught.value.remedy


def test_an_answer_without_the_output_is_bad_data() -> None:
    class Empty:
        def as_numpy(self, name: str) -> None: ...

    with pytest.raises(DataError, match="embed_text answered without embedding"):
        _connection(Empty()).infer("embed_text", {"text": to_bytes_column([b"x"])}, ["embedding"])


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
    with pytest.raises(DataError, match="serves no model of kdx"):
        _connection(config).read_spec()


class _Connection:
    """Answers each request with numbers that say which row of which request it was."""

    url = URL

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer(self, model: str, inputs: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        (column,) = inputs.values()
        self.sizes.append(len(column))
        return {"embedding": np.array([[float(len(value))] for value in column[:, 0]], np.float32)}


@pytest.fixture
def encoder(exported_model: Path) -> TritonEncoder:
    encoder = TritonEncoder.__new__(TritonEncoder)
    spec: EncoderSpec = open_exported_model(exported_model).spec
    encoder.spec, encoder.connection = spec, _Connection()  # type: ignore[assignment]
    return encoder


def test_requests_hold_what_the_server_takes_at_once(encoder: TritonEncoder) -> None:
    sizes: list[int] = encoder.connection.sizes  # type: ignore[attr-defined]
    images = encoder.embed_images([b"x" * n for n in range(1, 36)])
    assert images[:, 0].tolist() == list(range(1, 36)) and sizes == [16, 16, 3]
    sizes.clear()
    texts = encoder.embed_texts(["y" * n for n in range(1, 131)], batch_size=1000)
    assert texts[:, 0].tolist() == list(range(1, 131)) and sizes == [64, 64, 2]
    sizes.clear()
    assert len(encoder.embed_texts(["a", "b", "c"], batch_size=2)) == 3 and sizes == [2, 1]


def test_nothing_asks_nothing(encoder: TritonEncoder) -> None:
    assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, encoder.spec.embed_dim)
    assert encoder.connection.sizes == []  # type: ignore[attr-defined]


def test_tensors_are_refused_with_what_to_use_instead(encoder: TritonEncoder) -> None:
    with pytest.raises(UsageError, match="encode_image is not possible") as caught:
        encoder.encode_image(np.zeros((1, 3, 32, 32), np.float32))
    assert caught.value.remedy == "use embed_images"
    with pytest.raises(UsageError, match="encode_text is not possible"):
        encoder.encode_text(np.zeros((1, 4), np.int64))


def test_a_column_keeps_nul_bytes_and_empty_values() -> None:
    values = [b"a\x00", b"", b"\x00\x00"]
    column = to_bytes_column(values)
    assert column.shape == (3, 1) and column[:, 0].tolist() == values


def test_a_text_that_utf8_cannot_carry_is_bad_data() -> None:
    assert encode_utf8("naïve 🙂") == "naïve 🙂".encode()
    with pytest.raises(DataError, match="cannot be sent as UTF-8"):
        encode_utf8("a\ud800")


def test_images_are_sent_as_their_files_and_pil_images_without_loss(
    tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    photo = make_photo(0)
    (tmp_path / "photo.jpg").write_bytes(photo)
    assert [
        read_image_bytes(image) for image in (photo, tmp_path / "photo.jpg", str(tmp_path / "photo.jpg"))
    ] == [photo] * 3
    decoded = Image.open(io.BytesIO(photo))
    assert Image.open(io.BytesIO(read_image_bytes(decoded))).tobytes() == decoded.tobytes()
    with pytest.raises(DataError, match="cannot be read"):
        read_image_bytes(tmp_path / "nowhere.jpg")
