"""Exact search of images by text: every embedding is compared, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError, UsageError
from kdx.core.preprocess import ImageSource
from kdx.core.progress import Progress, silent

BATCH = 16


class ExactSearch:
    """The embeddings of named images, made by any Embedder, a served one included.

    refused: the images that the encoder did not take, with the reason; they are not found.
    """

    def __init__(
        self, encoder: Embedder, images: Mapping[str, ImageSource], *, progress: Progress = silent
    ) -> None:
        self._encoder = encoder
        self.names: list[str] = []
        self.refused: dict[str, str] = {}
        rows: list[FloatArray] = []
        names = list(images)
        for start in range(0, len(names), BATCH):
            group = names[start : start + BATCH]
            try:
                rows.append(encoder.embed_images([images[name] for name in group]))
                self.names += group
            except DataError:
                rows += self._embed_singly(group, images)
            progress(start + len(group), len(names))
        self.embeddings = np.concatenate(rows) if rows else np.empty((0, encoder.spec.embed_dim), np.float32)

    def find(self, text: str, top_k: int) -> list[tuple[str, float]]:
        """Names and cosines of the `top_k` images nearest to the text, best first. Raises UsageError."""
        if top_k < 1:
            raise UsageError(f"top_k = {top_k} is not positive", remedy="10 is usual")
        (query,) = self._encoder.embed_texts([text])
        cosines = self.embeddings @ query
        best = np.argsort(-cosines, kind="stable")[:top_k]
        return [(self.names[row], float(cosines[row])) for row in best]

    def _embed_singly(self, group: list[str], images: Mapping[str, ImageSource]) -> list[FloatArray]:
        """One bad image must not hide its neighbours."""
        rows: list[FloatArray] = []
        for name in group:
            try:
                rows.append(self._encoder.embed_images([images[name]]))
                self.names.append(name)
            except DataError as error:
                self.refused[name] = error.what
        return rows
