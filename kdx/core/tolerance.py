"""Embedding many images of which some may be damaged: a bad one must not hide its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .encoder import EMBED_BATCH, Embedder, FloatArray, batched, concatenate
from .errors import DataError
from .preprocess import ImageSource
from .progress import Progress, silent
from .requests import item_index


@dataclass(frozen=True)
class ReadableImages:
    """What could be embedded. rows: which of the images, in their order; embeddings: float32 [len(rows), D]."""

    rows: list[int]
    embeddings: FloatArray


def embed_readable(
    embedder: Embedder,
    images: Iterable[ImageSource],
    total: int,
    refuse: Callable[[int, DataError], None],
    *,
    progress: Progress = silent,
) -> ReadableImages:
    """Embeds the images that can be; of each other one its row and the reason are given to `refuse`, which may raise.

    images: `total` of them, read a batch at a time. An error that is of no single image, such as a server's or a
    damaged model's, is raised.
    """
    rows: list[int] = []
    blocks: list[FloatArray] = []
    for group in batched(enumerate(images), EMBED_BATCH):
        done = group[-1][0] + 1
        while group:
            try:
                blocks.append(embedder.embed_images([image for _, image in group]))
                break
            except DataError as error:
                index = item_index(error, "images")
                if index is None:
                    raise
                refuse(group.pop(index)[0], error)
        rows += [row for row, _ in group]
        progress(done, total)
    return ReadableImages(rows, concatenate(blocks, embedder.spec.embed_dim))
