"""Reading the tensors of requests and answering them, each request by itself.

An error belongs to the stage in which it arises. What fails while a request is read is its sender's fault
(INVALID_ARGUMENT); what fails in the encoder is the server's, whatever the encoder calls it (INTERNAL): the log has it
whole, and the sender learns no more than that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from kdx.core.encoder import Encoder, FloatArray
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.provenance import cpu_count
from kdx.core.requests import at_item
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.triton_requests import from_message, to_message

T = TypeVar("T")

# Seconds that one batch may take. A full one of the largest images needs half a minute of a core.
EXECUTION_LIMIT = 600.0


class OverloadError(SetupError):
    """Another model takes no more requests."""


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


def open_model(args: dict[str, Any]) -> ExportedModel:
    """The exported model inside the repository that Triton was started with."""
    repository = Path(args["model_repository"]).resolve().parent.parent
    return open_exported_model(repository / "exported-model")


def open_encoder(args: dict[str, Any]) -> Encoder:
    """What runs the exported model in this process, on the device that Triton gave to this instance.

    The instances of a model share the cores of the machine on which the server starts: with more threads than cores the
    same work took 5 to 18 % more time of the processor.
    """
    if args["model_instance_kind"] == "GPU":
        show_one_gpu(int(args["model_instance_device_id"]))
    instances = sum(group["count"] for group in json.loads(args["model_config"])["instance_group"])
    return open_model(args).open(num_threads=max(1, cpu_count() // instances))


def show_one_gpu(device: int) -> None:
    """To the CUDA of this process. device: as Triton numbers those that CUDA_VISIBLE_DEVICES shows to the server."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[device].strip() if shown else str(device)


def asked_models(args: dict[str, Any]) -> list[str]:
    """The models that this one asks, by its configuration."""
    return json.loads(args["model_config"])["parameters"]["asks"]["string_value"].split()


def answer_embeddings(
    requests: Sequence[Any],
    read: Callable[[Any], list[T]],
    encode: Callable[[list[T]], FloatArray],
    output: str = "embedding",
) -> list[Any]:
    """Encodes what all requests hold in one batch and answers each; a bad request fails alone.

    read: the items of one request; a KdxError of it is the sender's fault.
    """
    with ended_when_stuck(EXECUTION_LIMIT):
        items: list[T] = []
        parts: list[slice | Exception] = []
        for request in requests:
            try:
                own = read(request)
            except Exception as error:
                parts.append(error)
                continue
            parts.append(slice(len(items), len(items) + len(own)))
            items += own
        failure: Any = None
        try:
            embeddings = encode(items) if items else None
        except OverloadError as error:
            embeddings, failure = None, error
        except Exception as error:
            embeddings, failure = None, _log(error)
    return [
        error_response(part)
        if isinstance(part, Exception)
        else error_response(failure)
        if embeddings is None
        else response({output: np.ascontiguousarray(embeddings[part])})
        for part in parts
    ]


@contextlib.contextmanager
def ended_when_stuck(seconds: float) -> Iterator[None]:
    """Ends this process, with its stack in the server's log, when the block takes longer.

    One of a model's instances that hangs would otherwise stay unnoticed while the others answer.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def read_bytes(request: Any, name: str) -> list[bytes]:
    """The elements of a BYTES tensor, in order. Raises UsageError if it is missing or empty."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise UsageError(f"the input {name} is missing")
    values = [bytes(value) for value in tensor.as_numpy().reshape(-1)]
    if not values:
        raise UsageError(f"the input {name} is empty", remedy="send at least one value")
    return values


def read_rows(request: Any, name: str, check: Callable[[npt.NDArray[Any]], None]) -> list[npt.NDArray[Any]]:
    """The rows of a numeric tensor, copied out of the request. check: raises UsageError for what it may not hold."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise UsageError(f"the input {name} is missing")
    array = tensor.as_numpy().copy()
    check(array)
    return list(array)


def read_each(read: Callable[[bytes], T], field: str, values: Sequence[bytes]) -> list[T]:
    """The values read one by one; an error names its item: `images[3]`."""
    items: list[T] = []
    for row, value in enumerate(values):
        try:
            items.append(read(value))
        except KdxError as error:
            raise at_item(error, field, row) from None
    return items


def response(outputs: dict[str, Any]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def error_response(error: Exception) -> Any:
    """What the sender is told, with the code of Triton that says whose fault it is."""
    codes = pb_utils.TritonError
    if isinstance(error, DataError | UsageError):
        return _error(to_message(error), codes.INVALID_ARG)
    if isinstance(error, OverloadError):
        return _error(
            to_message(SetupError(error.what, where=error.where, remedy=error.remedy)), codes.UNAVAILABLE
        )
    if isinstance(error, CancelledError):
        return _error("cancelled", codes.CANCELLED)
    told = error if isinstance(error, SetupError) else _log(error)
    return _error(to_message(told), codes.INTERNAL)


def ask(model: str, name: str, values: npt.NDArray[Any], output: str = "embedding") -> FloatArray:
    """The embeddings [B, D] of one batch, from another model of this server. values: its input of that name.

    Raises what the other model said: DataError, UsageError, SetupError; OverloadError if it takes no more; or
    RuntimeError. Triton hands on the text of an error, but not its code.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[pb_utils.Tensor(name, values)],
        # where this process can read it, wherever the other model ran
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    answer = request.exec()
    if answer.has_error():
        message = answer.error().message()
        if told := from_message(message):
            raise told
        if "maximum queue size" in message or "not ready" in message:  # not ready: the server is stopping
            raise OverloadError(
                "takes no more requests into its queue", where=model, remedy="try again later"
            )
        if "shared memory" in message:
            raise SetupError(
                "/dev/shm is full", where=model, remedy="give the server more of it, or send less at a time"
            )
        raise RuntimeError(f"{model}: {message}")
    return pb_utils.get_output_tensor_by_name(answer, output).as_numpy().copy()


def _log(error: Exception) -> SetupError:
    """The whole error goes to the server's log; what is returned tells no more than that."""
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return SetupError("the model failed", remedy="see the server's log")


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
