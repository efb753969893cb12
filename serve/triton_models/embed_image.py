"""Triton model `embed_image`: `image` BYTES [B, 1] (encoded files) → `embedding` FP32 [B, D], unit rows.

It runs the image encoder itself, or asks `image_encoder` if its configuration says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kdx.core.encoder import FloatArray
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS
from kdx.runtime.triton_requests import check_size

from .image_encoder import ImageEncoder
from .requests import answer_embeddings, ask, asked_models, open_model, read_bytes, read_each


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._own = None if asked_models(args) else ImageEncoder(args)
        self._preprocess = self._own.encoder.preprocess if self._own else open_model(args).spec.preprocess()

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, self._read, self._encode)

    def finalize(self) -> None:
        if self._own:
            self._own.encoder.close()

    def _read(self, request: Any) -> list[FloatArray]:
        images = read_bytes(request, "image")
        check_size(images)
        return read_each(self._preprocess, "images", images)

    def _encode(self, images: list[FloatArray]) -> FloatArray:
        """images: [3, S, S] each. Returns [B, D]."""
        if self._own:
            return self._own.encode(images)
        return ask("image_encoder", PIXELS, np.stack(images), IMAGE_FEATURES)
