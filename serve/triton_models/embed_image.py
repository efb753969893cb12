"""Triton model `embed_image`: `image` BYTES [B, 1] (encoded files) → `embedding` FP32 [B, D], unit rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdx.core.encoder import FloatArray, batched
from kdx.runtime.triton_requests import check_size

from .requests import answer_embeddings, open_encoder, read_bytes, read_each

# Images in one call of the encoder. More do not fit the processor's cache: an image of a batch of 16 took 17 % more of
# the processor than one of 2 for ViT-T/16, 33 % for EfficientNet-B0, 19 % for MobileViT-S and 5 % less for ResNet-18
# (ONNX Runtime, one thread).
AT_ONCE = 2


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._encoder = open_encoder(args)
        size = self._encoder.spec.image_size
        # the first run of a session is slow: afterwards READY means warm
        self._encoder.encode_image(np.zeros((1, 3, size, size), dtype=np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, self._read, self._encode)

    def finalize(self) -> None:
        self._encoder.close()

    def _read(self, request: Any) -> list[FloatArray]:
        images = read_bytes(request, "image")
        check_size(images)
        return read_each(self._encoder.preprocess, "images", images)

    def _encode(self, images: list[FloatArray]) -> FloatArray:
        """images: [3, S, S] each. Returns [B, D]."""
        pieces = batched(images, AT_ONCE)
        return np.concatenate([self._encoder.encode_image(np.stack(piece)) for piece in pieces])
