"""Retrieval: does an image find its captions among all captions, and a caption its image among all images?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource
from kdx.core.spelling import count_of

from .bootstrap import bootstrap_interval
from .metrics import (
    Estimate,
    Proportion,
    best_ranks,
    blocks,
    check_embeddings,
    share_within,
    target_ranks,
)

CUTOFFS = (1, 5, 10)  # the k of recall@k that papers give


@dataclass(frozen=True)
class Direction:
    """One way of searching. recalls: recall@k by k. mean_rank, median_rank: of what is sought, 1 = first."""

    recalls: dict[int, Proportion]
    mean_rank: Estimate
    median_rank: Estimate

    def to_dict(self) -> dict[str, Any]:
        recalls = {f"recall@{k}": recall.to_dict() for k, recall in self.recalls.items()}
        return {**recalls, "mean_rank": self.mean_rank.to_dict(), "median_rank": self.median_rank.to_dict()}


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Both ways of searching. protocol: how many images and captions were searched; recalls of others do not compare.

    Query by query, int64: caption_ranks [N] of each image's best caption, image_ranks [M] of each caption's image (0 =
    first), owners [M] the image of each caption. Intervals are drawn when they are first asked for.
    """

    protocol: str
    caption_ranks: npt.NDArray[np.int64] = field(repr=False)
    image_ranks: npt.NDArray[np.int64] = field(repr=False)
    owners: npt.NDArray[np.int64] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RetrievalResult) and self.to_dict() == other.to_dict()

    @functools.cached_property
    def to_text(self) -> Direction:
        return _summary(self.caption_ranks, np.arange(len(self.caption_ranks)))

    @functools.cached_property
    def to_image(self) -> Direction:
        return _summary(self.image_ranks, self.owners)

    @property
    def mean_recall(self) -> dict[int, float]:
        """The mean of both directions by k, 0 … 1."""
        ranks = (self.caption_ranks, self.image_ranks)
        return {k: sum(share_within(each, k).value for each in ranks) / 2 for k in CUTOFFS}

    @property
    def image_to_text(self) -> dict[int, Proportion]:
        """recall@k by k."""
        return self.to_text.recalls

    @property
    def text_to_image(self) -> dict[int, Proportion]:
        """recall@k by k."""
        return self.to_image.recalls

    def to_dict(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            **{f"mean_recall@{k}": recall for k, recall in self.mean_recall.items()},
            "image_to_text": self.to_text.to_dict(),
            "text_to_image": self.to_image.to_dict(),
        }


def evaluate_retrieval(
    embedder: Embedder, images: Iterable[ImageSource], captions: Sequence[Sequence[str]]
) -> RetrievalResult:
    """recall@1, 5, 10 of a model. captions: all captions of each image, one or more.

    Image to text, an image counts if any of its captions is among the first k; text to image, every caption is
    a query. Pairs count by position, as in the usual protocols: another image's caption of the same words is
    wrong. Raises DataError for an image that does not decode or has no caption.
    """
    return score_retrieval(embedder.embed_texts, embedder.embed_images(images), captions)


def score_retrieval(
    embed_texts: Callable[[list[str]], FloatArray], images: FloatArray, captions: Sequence[Sequence[str]]
) -> RetrievalResult:
    """The same for images that are embedded already. images: float32 [N, D]. Raises DataError.

    embed_texts: gives the embeddings of texts, which are all different; float32 [U, D].
    """
    if len(images) != len(captions):
        raise DataError(
            f"{len(images)} images have {len(captions)} lists of captions", remedy="give one list an image"
        )
    if not captions or not all(captions):
        raise DataError("there is an image without a caption", remedy="give each image a caption")
    flat = [caption for own in captions for caption in own]
    owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])  # [M] caption → image
    # equal texts are embedded once and so tie exactly
    distinct = {text: position for position, text in enumerate(dict.fromkeys(flat))}
    texts = embed_texts(list(distinct))  # [U, D]
    columns = np.array([distinct[text] for text in flat])  # [M] caption → row of texts
    check_embeddings(images, "images")
    check_embeddings(texts, "captions")
    caption_ranks, image_ranks = rank_pairs(images, texts, columns, owners)
    return RetrievalResult(
        protocol=f"{count_of(len(images), 'image')} × {count_of(len(flat), 'caption')}",
        caption_ranks=caption_ranks,
        image_ranks=image_ranks,
        owners=owners,
    )


def _summary(ranks: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]) -> Direction:
    """ranks: of queries, 0 = first; owners: the image of each, by which they are drawn anew, since the captions of one
    image rise and fall together.
    """
    num_images = int(owners[-1]) + 1
    queries = np.bincount(owners, minlength=num_images)  # of each image
    found = np.array([np.bincount(owners, ranks < k, num_images) for k in CUTOFFS])  # [K, N]
    sums = np.bincount(owners, ranks + 1, num_images)
    order = np.argsort(ranks, kind="stable")
    by_rank, owners_by_rank = ranks[order] + 1, owners[order]

    def statistics(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        total = drawn @ queries
        seen = np.cumsum(drawn[owners_by_rank])
        middle = by_rank[np.searchsorted(seen, [(total - 1) // 2, total // 2], side="right")]
        return np.array([*(found @ drawn) / total, drawn @ sums / total, middle.mean()])

    *_, mean, median = statistics(np.ones(num_images, dtype=np.int64)).tolist()
    *recalls, of_mean, of_median = [
        (low, high) for low, high in bootstrap_interval(num_images, statistics).tolist()
    ]
    several = len(ranks) > num_images
    return Direction(
        recalls={
            k: replace(share_within(ranks, k), resampled=interval) if several else share_within(ranks, k)
            for k, interval in zip(CUTOFFS, recalls, strict=True)
        },
        mean_rank=Estimate(mean, of_mean),
        median_rank=Estimate(median, of_median),
    )


def rank_pairs(
    images: FloatArray,
    texts: FloatArray,
    columns: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rank of each image's best caption [N] and of each caption's image [M], never holding all N × M scores."""
    num_images, num_captions = len(images), len(columns)
    caption_ranks = np.empty(num_images, dtype=np.int64)
    for rows in blocks(num_images, num_captions):
        scores = (images[rows] @ texts.T)[:, columns]  # [b, M]
        caption_ranks[rows] = best_ranks(scores, np.arange(num_images)[rows, None] == owners)
    image_ranks = np.empty(num_captions, dtype=np.int64)
    for rows in blocks(num_captions, num_images):
        image_ranks[rows] = target_ranks(texts[columns[rows]] @ images.T, owners[rows])  # from [b, N]
    return caption_ranks, image_ranks
