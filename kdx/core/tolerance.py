"""Embedding many images of which some may be damaged: a bad one must not hide its neighbours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .ahead import embed_ahead
from .encoder import Embedder, FloatArray, concatenate
from .errors import DataError
from .preprocess import ImageSource
from .progress import Progress, silent
from .requests import check_images


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

    images: `total` of them, read a few batches ahead. An error that is of no single image, such as a server's or a
    damaged model's, is raised.
    """
    rows: list[int] = []
    blocks: list[FloatArray] = []
    done = 0
    for batch in embed_ahead(embedder, (functools.partial(_itself, image) for image in check_images(images))):
        for row, error in batch.refused.items():
            refuse(row, error)
        rows += batch.rows
        blocks.append(batch.embeddings)
        done += batch.size
        progress(done, total)
    return ReadableImages(rows, concatenate(blocks, embedder.spec.embed_dim))


def _itself(image: ImageSource) -> ImageSource:
    return image
