"""Triton model `text_encoder` in the python backend: `tokens` INT32 [B, L] → `text_features` FP32 [B, D].

Triton joins requests of one length only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kdx.core.encoder import FloatArray, IntArray, check_tokens
from kdx.runtime.exported_encoder import TEXT_FEATURES, TOKENS

from .requests import answer_embeddings, open_encoder, read_rows


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._encoder = open_encoder(args)
        self._encoder.embed_texts(["warm"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, self._read, self._encode, TEXT_FEATURES)

    def finalize(self) -> None:
        self._encoder.close()

    def _read(self, request: Any) -> list[IntArray]:
        return read_rows(request, TOKENS, partial(check_tokens, self._encoder.spec))

    def _encode(self, rows: list[IntArray]) -> FloatArray:
        """rows: [L] each. Returns [B, D]."""
        return self._encoder.encode_text(np.stack(rows))
