"""Whether a server really answers: one inference of each model, because Triton's health calls miss dead models."""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from kdx.runtime.triton import TritonConnection, to_bytes_column


def probe(connection: TritonConnection, timeout: float = 10.0) -> dict[str, float]:
    """Asks each model once, each within `timeout` seconds. Returns milliseconds by model. Raises SetupError."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(file, "PNG")
    image, text = to_bytes_column([file.getvalue()]), to_bytes_column([b"ready"])
    labels = np.array([b'["ready", "steady"]'], dtype=np.object_)
    milliseconds: dict[str, float] = {}
    for model, inputs, output in (
        ("embed_image", {"image": image}, "embedding"),
        ("embed_text", {"text": text}, "embedding"),
        ("zero_shot", {"image": image, "labels": labels}, "score"),
    ):
        start = time.perf_counter()
        connection.infer(model, inputs, [output], timeout)
        milliseconds[model] = 1000 * (time.perf_counter() - start)
    return milliseconds
