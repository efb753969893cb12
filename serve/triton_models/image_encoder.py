"""Triton model `image_encoder` in the python backend: `pixels` FP32 [B, 3, S, S] → `image_features` FP32 [B, D]."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kdx.core.encoder import Encoder, FloatArray, batched, check_pixels
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS

from .requests import answer_embeddings, open_encoder, read_rows

# Images in one call of the encoder on a CPU. More do not fit the processor's cache: an image of a batch of 16 took 17 %
# more of the processor than one of 2 for ViT-T/16, 33 % for EfficientNet-B0, 19 % for MobileViT-S and 5 % less for
# ResNet-18 (ONNX Runtime, one thread).
AT_ONCE_ON_CPU = 2


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._images = ImageEncoder(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, self._read, self._images.encode, IMAGE_FEATURES)

    def finalize(self) -> None:
        self._images.encoder.close()

    def _read(self, request: Any) -> list[FloatArray]:
        return read_rows(request, PIXELS, partial(check_pixels, self._images.encoder.spec))


class ImageEncoder:
    """The image tower of the exported model in this process, warm."""

    def __init__(self, args: dict[str, Any]) -> None:
        self.encoder: Encoder = open_encoder(args)
        self._at_once = None if args["model_instance_kind"] == "GPU" else AT_ONCE_ON_CPU
        size = self.encoder.spec.image_size
        # the first run of a session is slow: afterwards READY means warm
        self.encode([np.zeros((3, size, size), dtype=np.float32)])

    def encode(self, images: list[FloatArray]) -> FloatArray:
        """images: [3, S, S] each. Returns [B, D]."""
        pieces = batched(images, self._at_once or len(images))
        return np.concatenate([self.encoder.encode_image(np.stack(piece)) for piece in pieces])
