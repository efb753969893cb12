"""Retrieval: does an image find its captions among all captions, and a caption its image among all images?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource

from .metrics import Proportion, best_ranks, blocks, check_embeddings, share_within, target_ranks

CUTOFFS = (1, 5, 10)  # the k of recall@k that papers give


@dataclass(frozen=True)
class RetrievalResult:
    """recall@k by k. protocol: how many images and captions were searched; recalls of others do not compare.

    Query by query, int64: caption_ranks [N] of each image's best caption, image_ranks [M] of each caption's image (0 =
    first), owners [M] the image of each caption.
    """

    image_to_text: dict[int, Proportion]
    text_to_image: dict[int, Proportion]
    protocol: str
    caption_ranks: npt.NDArray[np.int64] = field(compare=False, repr=False)
    image_ranks: npt.NDArray[np.int64] = field(compare=False, repr=False)
    owners: npt.NDArray[np.int64] = field(compare=False, repr=False)

    @property
    def mean_recall(self) -> dict[int, float]:
        """The mean of both directions by k, 0 … 1."""
        return {k: (self.image_to_text[k].value + self.text_to_image[k].value) / 2 for k in CUTOFFS}

    def to_dict(self) -> dict[str, Any]:
        def direction(recalls: dict[int, Proportion]) -> dict[str, Any]:
            return {f"recall@{k}": recall.to_dict() for k, recall in recalls.items()}

        return {
            "protocol": self.protocol,
            **{f"mean_recall@{k}": recall for k, recall in self.mean_recall.items()},
            "image_to_text": direction(self.image_to_text),
            "text_to_image": direction(self.text_to_image),
        }


def evaluate_retrieval(
    embedder: Embedder, images: Iterable[ImageSource], captions: Sequence[Sequence[str]]
) -> RetrievalResult:
    """recall@1, 5, 10 of a model. captions: all captions of each image, one or more.

    Image to text, an image counts if any of its captions is among the first k; text to image, every caption is
    a query. Pairs count by position, as in the usual protocols: another image's caption of the same words is
    wrong. Raises DataError for an image that does not decode or has no caption.
    """
    return score_retrieval(embedder, embedder.embed_images(images), captions)


def score_retrieval(
    embedder: Embedder, images: FloatArray, captions: Sequence[Sequence[str]]
) -> RetrievalResult:
    """The same for images that are embedded already. images: float32 [N, D]. Raises DataError."""
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
    texts = embedder.embed_texts(list(distinct))  # [U, D]
    columns = np.array([distinct[text] for text in flat])  # [M] caption → row of texts
    check_embeddings(images, "images")
    check_embeddings(texts, "captions")
    caption_ranks, image_ranks = _rank(images, texts, columns, owners)
    return RetrievalResult(
        image_to_text={k: share_within(caption_ranks, k) for k in CUTOFFS},
        text_to_image={k: share_within(image_ranks, k) for k in CUTOFFS},
        protocol=f"{len(images):,} images × {len(flat):,} captions",
        caption_ranks=caption_ranks,
        image_ranks=image_ranks,
        owners=owners,
    )


def _rank(
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
