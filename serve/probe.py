"""One real inference of each model, because Triton's own health calls miss dead models."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.runtime.triton import TritonConnection
from kdx.runtime.triton_requests import FIRST, to_bytes_column

MODELS = ("embed_image", "embed_text", "zero_shot")


def probe(
    connection: TritonConnection, models: Sequence[str] = MODELS, *, timeout: float = 10.0
) -> dict[str, float]:
    """Asks each of the models once, each within `timeout` seconds. Returns milliseconds by model.

    The probe goes before the requests that wait. Raises SetupError; BusyError for an answer that is late, or refused
    because too many wait.
    """
    milliseconds: dict[str, float] = {}
    for model in models:
        start = time.perf_counter()
        inputs, output = _question(model)
        connection.infer(model, inputs, [output], timeout, priority=FIRST)
        milliseconds[model] = 1000 * (time.perf_counter() - start)
    return milliseconds


def _question(model: str) -> tuple[dict[str, npt.NDArray[np.object_]], str]:
    """Inputs, and the output that is asked for."""
    if model == "embed_text":
        return {"text": to_bytes_column([b"ready"])}, "embedding"
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(file, "PNG")
    image = to_bytes_column([file.getvalue()])
    if model == "embed_image":
        return {"image": image}, "embedding"
    return {"image": image, "labels": np.array([b'["ready", "steady"]'], dtype=np.object_)}, "score"
