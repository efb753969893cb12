"""Triton model `embed_text`: `text` BYTES [B, 1] (UTF-8) → `embedding` FP32 [B, D], unit rows.

It runs the text encoder itself, or asks `text_encoder` if its configuration says so.
"""

from __future__ import annotations

from typing import Any

from kdx.core.encoder import FloatArray
from kdx.core.errors import UsageError
from kdx.core.tokenizers import open_tokenizer
from kdx.runtime.exported_encoder import TEXT_FEATURES, TOKENS
from kdx.runtime.triton_requests import MAX_TEXT_BYTES

from .requests import answer_embeddings, ask, asked_models, open_encoder, open_model, read_bytes, read_each


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._own = None if asked_models(args) else open_encoder(args)
        if self._own:
            self._own.embed_texts(["warm"])
            return
        model = open_model(args)
        self._spec = model.spec
        self._tokenizer = open_tokenizer(model.path)

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_embeddings(requests, _read, self._encode)

    def finalize(self) -> None:
        if self._own:
            self._own.close()

    def _encode(self, texts: list[str]) -> FloatArray:
        """Returns [B, D]."""
        if self._own:
            return self._own.embed_and_count(texts)[0]  # the server's log is no place for its clients' texts
        tokens = self._spec.pad(
            [self._tokenizer.encode(text, self._spec.context_length) for text in texts]
        )  # [B, L]
        return ask("text_encoder", TOKENS, tokens, TEXT_FEATURES)


def _read(request: Any) -> list[str]:
    return read_each(_read_text, "texts", read_bytes(request, "text"))


def _read_text(value: bytes) -> str:
    if len(value) > MAX_TEXT_BYTES:
        raise UsageError(f"a text of {len(value):,} bytes is over the limit of {MAX_TEXT_BYTES:,}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError("a text is not UTF-8") from None
