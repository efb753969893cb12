"""The Triton form of an Encoder: a server that takes encoded images and strings, over gRPC."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.encoder import Encoder, EncoderSpec, FloatArray, IntArray
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.preprocess import ImageSource

TIMEOUT = 60.0  # seconds for one call; tritonclient itself waits for ever
IMAGE_BATCH, TEXT_BATCH = 16, 64  # max_batch_size of the served models
BAD_INPUT = "bad input: "  # how the served models begin a message that is the client's fault


class TritonEncoder(Encoder):
    """Asks the models `embed_image` and `embed_text` of a kdx repository at `grpc://host:port`.

    Decoding, preprocessing and tokenizing happen in the server. Several threads may share the encoder.
    Raises SetupError if no server answers, DataError if it serves no kdx model or refuses an input.
    """

    def __init__(self, url: str) -> None:
        self.connection = TritonConnection(url)
        self.spec = self.connection.read_spec()
        self.preprocess = self.spec.preprocess()

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """Not possible: the endpoint takes encoded images. Raises UsageError."""
        raise self._takes_raw_inputs("encode_image", "embed_images")

    def encode_text(self, tokens: IntArray) -> FloatArray:
        """Not possible: the endpoint takes strings. Raises UsageError."""
        raise self._takes_raw_inputs("encode_text", "embed_texts")

    def embed_images(self, images: Iterable[ImageSource], batch_size: int = IMAGE_BATCH) -> FloatArray:
        iterator = iter(images)
        batches: list[FloatArray] = []
        while group := list(islice(iterator, min(batch_size, IMAGE_BATCH))):
            column = to_bytes_column([read_image_bytes(image) for image in group])
            batches.append(
                self.connection.infer("embed_image", {"image": column}, ["embedding"])["embedding"]
            )
        return self._concatenate(batches)

    def embed_texts(self, texts: Sequence[str], batch_size: int = TEXT_BATCH) -> FloatArray:
        size = min(batch_size, TEXT_BATCH)
        batches: list[FloatArray] = []
        for start in range(0, len(texts), size):
            column = to_bytes_column([encode_utf8(text) for text in texts[start : start + size]])
            batches.append(self.connection.infer("embed_text", {"text": column}, ["embedding"])["embedding"])
        return self._concatenate(batches)

    def close(self) -> None:
        self.connection.close()

    def _takes_raw_inputs(self, asked: str, instead: str) -> UsageError:
        return UsageError(
            f"{asked} is not possible: a Triton endpoint takes encoded images and texts",
            where=self.connection.url,
            remedy=f"use {instead}",
        )


class TritonConnection:
    """Calls to one server, with a deadline each and errors in kdx's terms."""

    def __init__(self, url: str) -> None:
        from tritonclient import grpc  # pyright: ignore[reportMissingTypeStubs]

        address = url.removeprefix("grpc://")
        if "://" in address or ":" not in address:
            raise UsageError("is not the URL of a Triton server", where=url, remedy="use grpc://HOST:PORT")
        self.url = f"grpc://{address}"
        self._grpc: Any = grpc
        self._client: Any = grpc.InferenceServerClient(address)

    def infer(
        self,
        model: str,
        inputs: dict[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        timeout: float = TIMEOUT,
    ) -> dict[str, npt.NDArray[Any]]:
        """One inference. inputs: arrays by name (object arrays are sent as BYTES). Returns arrays by name."""
        tensors: list[Any] = []
        for name, array in inputs.items():
            datatype = (
                "BYTES" if array.dtype == np.object_ else "INT32" if array.dtype == np.int32 else "FP32"
            )
            tensor = self._grpc.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [self._grpc.InferRequestedOutput(name) for name in outputs]
        result = self._call(
            lambda: self._client.infer(model, tensors, outputs=wanted, client_timeout=timeout), model
        )
        answers = {name: result.as_numpy(name) for name in outputs}
        for name, array in answers.items():
            if array is None:
                raise DataError(
                    f"{model} answered without {name}", where=self.url, remedy="see the server's log"
                )
        return answers

    def read_spec(self) -> EncoderSpec:
        """What the server's model is, from the configuration of `embed_image`."""
        config = self._call(
            lambda: self._client.get_model_config("embed_image", as_json=True, client_timeout=TIMEOUT),
            "embed_image",
        )
        try:
            text = config["config"]["parameters"]["spec"]["string_value"]
            return EncoderSpec.from_dict(cast(dict[str, Any], json.loads(text)))
        except (KeyError, ValueError):
            raise DataError(
                "serves no model of kdx", where=self.url, remedy="serve an exported model with `kdx serve up`"
            ) from None

    def server_version(self) -> str:
        metadata = self._call(lambda: self._client.get_server_metadata(client_timeout=TIMEOUT), "the server")
        return str(metadata.version)

    def close(self) -> None:
        self._client.close()

    def _call(self, call: Any, asked: str) -> Any:
        from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingTypeStubs]

        try:
            return call()
        except InferenceServerException as error:
            raise _translate(error, self.url, asked) from None


def to_bytes_column(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """BYTES [B, 1]. An object array, because numpy's S type would strip trailing NUL bytes."""
    column = np.empty((len(values), 1), dtype=np.object_)
    column[:, 0] = values
    return column


def encode_utf8(text: str) -> bytes:
    """Raises DataError for lone surrogates, which UTF-8 cannot carry."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DataError(
            "the text cannot be sent as UTF-8", where=repr(text[:40]), remedy="correct it"
        ) from None


def read_image_bytes(image: ImageSource) -> bytes:
    """The encoded file that is sent; a PIL image is sent as PNG."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=image, remedy="check the path") from None


def _translate(error: Any, url: str, asked: str) -> KdxError:
    """tritonclient's exception as what it means for the caller."""
    status, message = str(error.status() or ""), str(error.message())
    if "INVALID_ARGUMENT" in status:
        return DataError(message.removeprefix(BAD_INPUT), where=asked, remedy="correct the request")
    if "NOT_FOUND" in status:
        return DataError(
            f"does not serve {asked}", where=url, remedy="serve an exported model with `kdx serve up`"
        )
    if "DEADLINE_EXCEEDED" in status:
        return SetupError(
            f"{asked} did not answer in time", where=url, remedy="see the server's load and log"
        )
    if "UNAVAILABLE" in status and "queue" in message.lower():
        return SetupError(f"{asked} is overloaded: {message}", where=url, remedy="try again later")
    if "UNAVAILABLE" in status:
        return SetupError("no Triton server answers here", where=url, remedy="start one with `kdx serve up`")
    reason = (message or status or "no reason given").splitlines()[0]
    return SetupError(f"{asked} failed: {reason}", where=url, remedy="see the server's log")
