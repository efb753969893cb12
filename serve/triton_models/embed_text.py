"""Triton model `embed_text`: `text` BYTES [B, 1] (UTF-8) → `embedding` FP32 [B, D], unit rows."""

from __future__ import annotations

from typing import Any

from kdx.core.errors import UsageError
from kdx.runtime.triton_requests import MAX_TEXT_BYTES

from .requests import answer_embeddings, open_encoder, read_bytes, read_each


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._encoder = open_encoder(args)
        self._encoder.embed_texts(["warm"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, _read, self._encoder.embed_texts)

    def finalize(self) -> None:
        self._encoder.close()


def _read(request: Any) -> list[str]:
    return read_each(_read_text, "texts", read_bytes(request, "text"))


def _read_text(value: bytes) -> str:
    if len(value) > MAX_TEXT_BYTES:
        raise UsageError(f"a text of {len(value):,} bytes is over the limit of {MAX_TEXT_BYTES:,}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError("a text is not UTF-8") from None
