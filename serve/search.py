"""Exact search of images by text: every embedding is compared, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdx.core.encoder import Embedder
from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource
from kdx.core.progress import Progress, silent
from kdx.core.requests import check_count
from kdx.core.tolerance import embed_readable


class ExactSearch:
    """The embeddings of named images, made by any Embedder, a served one included.

    refused: the images that could not be embedded, with the reason; they are not found.
    """

    def __init__(
        self, embedder: Embedder, images: Mapping[str, ImageSource], *, progress: Progress = silent
    ) -> None:
        self._embedder = embedder
        self.refused: dict[str, str] = {}
        names = list(images)

        def refuse(row: int, error: DataError) -> None:
            self.refused[names[row]] = error.what

        readable = embed_readable(embedder, images.values(), len(names), refuse, progress=progress)
        self.names = [names[row] for row in readable.rows]
        self.embeddings = readable.embeddings  # [N, D]

    def find(self, text: str, top_k: int) -> list[tuple[str, float]]:
        """Names and cosines of the `top_k` images nearest to the text, best first. Raises UsageError."""
        top_k = check_count(top_k, "top_k")
        (query,) = self._embedder.embed_texts([text])
        cosines = self.embeddings @ query
        best = np.argsort(-cosines, kind="stable")[:top_k]
        return [(self.names[row], float(cosines[row])) for row in best]
