"""Zero-shot classification: an image belongs to the class whose prompts lie nearest."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.dimensions import first_dimensions
from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource
from kdx.core.prompts import class_vectors, prompt_texts
from kdx.core.requests import check_labels, check_templates
from kdx.core.spelling import count_of

from .bootstrap import bootstrap_interval
from .metrics import Estimate, Proportion, blocks, check_embeddings, share_within, target_ranks


@dataclass(frozen=True)
class ZeroShotResult:
    """top5 is None where there are no more than five classes. mean_per_class: recall of each class, averaged; its
    interval is by drawing the images anew, when it is first asked for.

    protocol: what the score was taken on, such as "1,000 images, 60 classes, 4 templates". Image by image, int64 [N]:
    labels; predictions, the nearest class; ranks of the right class, 0 = first.
    """

    top1: Proportion
    top5: Proportion | None
    mean_per_class: float
    num_templates: int
    protocol: str
    labels: npt.NDArray[np.int64] = field(compare=False, repr=False)
    predictions: npt.NDArray[np.int64] = field(compare=False, repr=False)
    ranks: npt.NDArray[np.int64] = field(compare=False, repr=False)

    @functools.cached_property
    def mean_per_class_interval(self) -> tuple[float, float]:
        def mean(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.array([mean_of_classes(self.labels, self.ranks == 0, drawn)])

        ((low, high),) = bootstrap_interval(len(self.labels), mean).tolist()
        return low, high

    def to_dict(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "num_templates": self.num_templates,
            "top1": self.top1.to_dict(),
            "top5": self.top5 and self.top5.to_dict(),
            "mean_per_class": Estimate(self.mean_per_class, self.mean_per_class_interval).to_dict(),
        }


def class_weights(embedder: Embedder, classes: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """The zero-shot classifier: the mean direction of each class's prompts. Returns float32 [C, D], unit rows.

    templates: strings with `{}` where the class's name goes. Raises UsageError for others.
    """
    return weights_side_by_side(embedder, classes, templates)[:, -embedder.spec.embed_dim :]


def weights_side_by_side(embedder: Embedder, classes: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """The classifiers of each of the model's widths, the whole one last: float32 [C, sum(spec.widths)]."""
    classes, templates = check_labels(classes), check_templates(templates)
    embeddings = embedder.embed_texts(prompt_texts(classes, templates))  # [C · T, D]
    check_embeddings(embeddings, "the classes' prompts")
    at_widths = (first_dimensions(embeddings, width) for width in embedder.spec.widths)
    return np.concatenate([class_vectors(each, len(templates)) for each in at_widths], axis=1)


def evaluate_zero_shot(
    embedder: Embedder,
    images: Iterable[ImageSource],
    labels: Sequence[int],
    classes: Sequence[str],
    templates: Sequence[str],
) -> ZeroShotResult:
    """Zero-shot accuracy of a model. labels: the index in `classes` of each image.

    Raises DataError for an image that does not decode, for a label that is no class, and without images.
    """
    embeddings = embedder.embed_images(images)
    return score_zero_shot(
        embeddings,
        np.array(labels, dtype=np.int64),
        class_weights(embedder, classes, templates),
        num_templates=len(templates),
    )


def score_zero_shot(
    images: FloatArray, labels: npt.NDArray[np.int64], weights: FloatArray, *, num_templates: int
) -> ZeroShotResult:
    """images: float32 [N, D]; labels: int64 [N], 0 … C-1; weights: float32 [C, D]. Raises DataError."""
    num_classes = len(weights)
    _check(images, labels, num_classes)
    ranks, predictions = np.empty_like(labels), np.empty_like(labels)
    for rows in blocks(len(images), num_classes):
        scores = images[rows] @ weights.T  # [b, C]
        ranks[rows] = target_ranks(scores, labels[rows])
        predictions[rows] = scores.argmax(axis=1)  # of equal ones the first, as in ranks
    return ZeroShotResult(
        top1=share_within(ranks, 1),
        top5=share_within(ranks, 5) if num_classes > 5 else None,
        mean_per_class=mean_of_classes(labels, ranks == 0, np.ones_like(labels)),
        num_templates=num_templates,
        protocol=", ".join(
            (
                count_of(len(images), "image"),
                count_of(num_classes, "class", "classes"),
                count_of(num_templates, "template"),
            )
        ),
        labels=labels,
        predictions=predictions,
        ranks=ranks,
    )


def mean_of_classes(
    labels: npt.NDArray[np.int64], values: npt.NDArray[Any], drawn: npt.NDArray[np.int64]
) -> float:
    """The mean of each class's images, averaged over the classes that have any. drawn: how often each image counts."""
    counts = np.bincount(labels, drawn)
    sums = np.bincount(labels, drawn * values)
    present = counts > 0
    return float((sums[present] / counts[present]).mean())


def _check(images: FloatArray, labels: npt.NDArray[np.int64], num_classes: int) -> None:
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images have {len(labels)} labels", remedy="give one label an image")
    if not len(images):
        raise DataError("there are no images to classify", remedy="check the data")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(
            f"there is a label {wrong}, but the classes are 0 … {num_classes - 1}",
            remedy="check classes.txt against the labels",
        )
    check_embeddings(images, "images")
