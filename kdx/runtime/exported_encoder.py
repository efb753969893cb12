"""What all runtimes of an exported model share: what is checked before a tower runs, and what it answered."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Encoder, FloatArray, IntArray, check_pixels, check_tokens
from kdx.core.errors import DataError, KdxError, SetupError, UsageError, beginning
from kdx.core.tokenizers import open_tokenizer

from .exported_model import ExportedModel

PIXELS, IMAGE_FEATURES = "pixels", "image_features"
TOKENS, TEXT_FEATURES = "tokens", "text_features"

AGAIN = "export the model again"
SHOWN_REASON = 200  # characters of what a runtime says


@dataclass(frozen=True)
class Graph:
    """One tower: its file and the names of its tensors."""

    path: Path
    input: str
    output: str


class ExportedEncoder(Encoder):
    """An exported model in one runtime, which implements `_run`.

    Raises UsageError for pixels and tokens that are not what `spec` says, DataError for a tower that answers anything
    but finite float32 [B, D], and what the runtime raises.
    """

    def __init__(self, model: ExportedModel, num_threads: int | None) -> None:
        if num_threads is not None and num_threads < 1:
            raise UsageError(f"num_threads = {num_threads} is not positive", remedy="leave it out, or give 1")
        self.spec = model.spec
        self.preprocess = model.spec.preprocess()
        self.tokenizer = open_tokenizer(model.path)
        self.spec.check_tokenizer(self.tokenizer, model.path)
        self.precision = model.precision
        self.identity = model.identity
        self._image = Graph(model.image_encoder, PIXELS, IMAGE_FEATURES)
        self._text = Graph(model.text_encoder, TOKENS, TEXT_FEATURES)

    @abstractmethod
    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        """batch: pixels float32 [B ≥ 1, 3, S, S] or tokens int32 [B ≥ 1, L]. Returns what the tower gives."""

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """pixels: float32 [B, 3, S, S], preprocessed. Returns float32 [B, D], unit rows."""
        check_pixels(self.spec, pixels)
        return self._answer(self._image, pixels)

    def encode_text(self, tokens: IntArray) -> FloatArray:
        """tokens: int [B, L], as `spec.pad` gives them. Returns float32 [B, D], unit rows."""
        check_tokens(self.spec, tokens)
        return self._answer(self._text, tokens.astype(np.int32, copy=False))

    def _answer(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        expected = (len(batch), self.spec.embed_dim)
        if not len(batch):
            return np.empty(expected, dtype=np.float32)
        features = self._run(graph, batch)
        if features.shape != expected or features.dtype != np.float32:
            got = f"{features.dtype} {list(features.shape)}"
            raise DataError(
                f"gave {graph.output} {got} instead of float32 {list(expected)}",
                where=graph.path,
                remedy=AGAIN,
            )
        if not np.isfinite(features).all():
            raise DataError(f"gave NaN or infinity as {graph.output}", where=graph.path, remedy=AGAIN)
        return features


def runtime_fault(what: str, path: Path, error: Exception, machine: re.Pattern[str]) -> KdxError:
    """What a runtime raised, by its owner: a machine without memory or with a failing GPU, or else the file.

    machine: the runtime's words for what the machine lacks, where the classes of its exceptions do not tell.
    """
    reason = beginning(str(error), SHOWN_REASON)
    if isinstance(error, MemoryError | OSError) or machine.search(f"{type(error).__name__}: {reason}"):
        return SetupError(
            f"{what}: {reason}",
            where=path,
            remedy="free memory, or give smaller batches; `kdx doctor` says what this machine has",
        )
    return DataError(f"{what}: {reason}", where=path, remedy=AGAIN)
