"""Exact search of images by text: every embedding is compared, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdx.core.dimensions import check_dimensions, first_dimensions
from kdx.core.encoder import Embedder
from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource
from kdx.core.progress import Progress, silent
from kdx.core.requests import check_count
from kdx.core.tolerance import embed_readable


class ExactSearch:
    """The embeddings of named images, made by any Embedder, a served one included.

    dimensions: the first ones alone are kept and compared, of a model that was trained for it; all by default.
    refused: the images that could not be embedded, with the reason; they are not found. Raises UsageError.
    """

    def __init__(
        self,
        embedder: Embedder,
        images: Mapping[str, ImageSource],
        *,
        dimensions: int | None = None,
        progress: Progress = silent,
    ) -> None:
        check_dimensions(embedder.spec, dimensions)
        self._embedder, self._dimensions = embedder, dimensions
        self.refused: dict[str, str] = {}
        names = list(images)

        def refuse(row: int, error: DataError) -> None:
            self.refused[names[row]] = error.what

        readable = embed_readable(embedder, images.values(), len(names), refuse, progress=progress)
        self.names = [names[row] for row in readable.rows]
        self.embeddings = first_dimensions(readable.embeddings, dimensions)  # [N, D]

    def find(self, text: str, top_k: int) -> list[tuple[str, float]]:
        """Names and cosines of the `top_k` images nearest to the text, best first. Raises UsageError."""
        top_k = check_count(top_k, "top_k")
        (query,) = self._embedder.embed_texts([text], dimensions=self._dimensions)
        cosines = self.embeddings @ query
        best = np.argsort(-cosines, kind="stable")[:top_k]
        return [(self.names[row], float(cosines[row])) for row in best]
