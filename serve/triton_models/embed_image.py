"""Triton model `embed_image`: `image` BYTES [B, 1] (encoded files) → `embedding` FP32 [B, D], unit rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError

from .limits import MAX_IMAGE_BYTES
from .requests import answer_embeddings, open_encoder


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._encoder = open_encoder(args)
        size = self._encoder.spec.image_size
        # the first run of a session is slow: afterwards READY means warm
        self._encoder.encode_image(np.zeros((1, 3, size, size), dtype=np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, "image", self._read, self._encode)

    def finalize(self) -> None:
        self._encoder.close()

    def _read(self, image: bytes) -> FloatArray:
        if len(image) > MAX_IMAGE_BYTES:
            raise DataError(f"an image of {len(image):,} bytes is over the limit of {MAX_IMAGE_BYTES:,}")
        return self._encoder.preprocess(image)

    def _encode(self, images: list[FloatArray]) -> FloatArray:
        size = self._encoder.spec.image_size
        pixels = np.stack(images) if images else np.empty((0, 3, size, size), dtype=np.float32)
        return self._encoder.encode_image(pixels)
