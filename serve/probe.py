"""One real inference of each model, because Triton's own health calls miss dead models.

What is asked follows from a model's configuration, so a further model is probed without a word here.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.errors import DataError
from kdx.runtime.triton import TritonConnection
from kdx.runtime.triton_requests import FIRST

from .served_model import ServedModel, Tensor, example_shape, from_config, is_of_kdx

DTYPES = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}


def find_models(connection: TritonConnection) -> list[ServedModel]:
    """The models of kdx that the server has, in order of their names. Raises DataError if it has none."""
    models = [from_config(config) for config in connection.read_configs() if is_of_kdx(config)]
    if not models:
        raise DataError(
            "serves no model of kdx",
            where=connection.url,
            remedy="serve an exported model with `kdx serve up`",
        )
    return sorted(models, key=lambda model: model.name)


def probe(
    connection: TritonConnection, models: Iterable[ServedModel], *, timeout: float = 10.0
) -> dict[str, float]:
    """Asks each of the models once, each within `timeout` seconds. Returns milliseconds by model.

    The probe goes before the requests that wait. Raises SetupError; BusyError for an answer that is late, or refused
    because too many wait.
    """
    milliseconds: dict[str, float] = {}
    for model in models:
        start = time.perf_counter()
        connection.infer(model.name, _question(model), [model.outputs[0].name], timeout, priority=FIRST)
        milliseconds[model.name] = 1000 * (time.perf_counter() - start)
    return milliseconds


def _question(model: ServedModel) -> dict[str, npt.NDArray[Any]]:
    """A value for each input that must be there."""
    batch = (1,) if model.max_batch_size else ()
    return {
        tensor.name: np.full((*batch, *example_shape(tensor)), _value(tensor), _dtype(tensor))
        for tensor in model.inputs
        if not tensor.optional
    }


def _dtype(tensor: Tensor) -> Any:
    return DTYPES.get(tensor.type, np.object_)


def _value(tensor: Tensor) -> Any:
    """Of every element. Zeros are pixels and tokens that an encoder takes."""
    if tensor.type in DTYPES:
        return 0
    if tensor.name == "image":
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "gray").save(file, "PNG")
        return file.getvalue()
    return b'["ready", "steady"]'  # a text, and a list of labels
