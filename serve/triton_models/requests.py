"""Reading the tensors of requests and answering them, each request by itself."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError, KdxError, UsageError
from kdx.core.requests import at_item
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.onnx import OnnxEncoder
from kdx.runtime.triton import BAD_INPUT, to_bytes_column, to_message

T = TypeVar("T")


def open_encoder(args: dict[str, Any]) -> OnnxEncoder:
    """The exported model inside the repository that Triton was started with."""
    repository = Path(args["model_repository"]).resolve().parent.parent
    return OnnxEncoder(open_exported_model(repository / "exported-model"))


def answer_embeddings(
    requests: Sequence[Any], name: str, read: Callable[[bytes], T], encode: Callable[[list[T]], FloatArray]
) -> list[Any]:
    """Encodes what all requests hold in one batch and answers each; a bad request fails alone."""
    items: list[T] = []
    parts: list[slice | Exception] = []
    for request in requests:
        try:
            own = [_read_item(read, name, row, value) for row, value in enumerate(read_bytes(request, name))]
        except Exception as error:
            parts.append(error)
            continue
        parts.append(slice(len(items), len(items) + len(own)))
        items += own
    try:
        embeddings = encode(items)
    except Exception as error:
        return [error_response(error) for _ in requests]
    return [
        error_response(part)
        if isinstance(part, Exception)
        else response({"embedding": np.ascontiguousarray(embeddings[part])})
        for part in parts
    ]


def read_bytes(request: Any, name: str) -> list[bytes]:
    """The elements of a BYTES tensor, in order. Raises UsageError if it is missing."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise UsageError(f"the input {name} is missing")
    return [bytes(value) for value in tensor.as_numpy().reshape(-1)]


def response(outputs: dict[str, Any]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def error_response(error: Exception) -> Any:
    """A fault of the request as INVALID_ARGUMENT; any other is logged, and the client learns no more."""
    if isinstance(error, DataError | UsageError):
        return _error(to_message(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, OverloadError):
        return _error(str(error), pb_utils.TritonError.UNAVAILABLE)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return _error("the model failed; see the server's log", pb_utils.TritonError.INTERNAL)


def ask(model: str, name: str, values: Sequence[bytes]) -> FloatArray:
    """The embeddings [B, D] of one batch, from another model of this server.

    Raises what the other model said: DataError, UsageError, OverloadError, or RuntimeError. Triton hands on the
    text of its error, but not the code.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=["embedding"],
        inputs=[pb_utils.Tensor(name, to_bytes_column(values))],
    )
    answer = request.exec()
    if answer.has_error():
        message = answer.error().message()
        _, is_bad_input, fields = message.partition(BAD_INPUT)
        if is_bad_input:
            raise KdxError.from_dict(json.loads(fields))
        if "maximum queue size" in message:
            raise OverloadError(message)
        raise RuntimeError(f"{model}: {message}")
    return pb_utils.get_output_tensor_by_name(answer, "embedding").as_numpy().copy()


def _read_item(read: Callable[[bytes], T], name: str, row: int, value: bytes) -> T:
    try:
        return read(value)
    except KdxError as error:
        raise at_item(error, f"{name}s", row) from None


class OverloadError(Exception):
    """Another model's queue is full."""


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
