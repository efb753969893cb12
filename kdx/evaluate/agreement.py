"""Two evaluations on the same data set: by how much the scores differ, whether by chance, and how often they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError

from .bootstrap import bootstrap_interval
from .evaluation import Evaluation
from .metrics import Proportion
from .paired import Difference, Discordance
from .retrieval import CUTOFFS, RetrievalResult
from .zero_shot import ZeroShotResult, mean_of_classes

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ZeroShotAgreement:
    """top5: None where there are no more than five classes. same_class: how often the two give the same, right or not.

    The interval of mean_per_class is the bootstrap's.
    """

    num_images: int
    top1: Discordance
    top5: Discordance | None
    mean_per_class: Difference
    same_class: Proportion

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_images": self.num_images,
            "top1": self.top1.to_dict(),
            "top5": self.top5 and self.top5.to_dict(),
            "mean_per_class": self.mean_per_class.to_dict(),
            "same_class": self.same_class.to_dict(),
        }


@dataclass(frozen=True)
class RetrievalAgreement:
    """The differences of recall@k by k; mean_recall: of the means of both directions.

    Their intervals are the bootstrap's over images, each with all its captions, among the same candidates.
    """

    num_images: int
    image_to_text: dict[int, Difference]
    text_to_image: dict[int, Difference]
    mean_recall: dict[int, Difference]

    def to_dict(self) -> dict[str, Any]:
        def direction(differences: dict[int, Difference]) -> dict[str, Any]:
            return {f"recall@{k}": difference.to_dict() for k, difference in differences.items()}

        return {
            "num_images": self.num_images,
            "image_to_text": direction(self.image_to_text),
            "text_to_image": direction(self.text_to_image),
            "mean_recall": direction(self.mean_recall),
        }


@dataclass(frozen=True)
class Agreement:
    """same_weights: whether both are forms of one model, such as a checkpoint and its export."""

    same_weights: bool
    zero_shot: ZeroShotAgreement | None
    retrieval: RetrievalAgreement | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "same_weights": self.same_weights,
            "zero_shot": self.zero_shot and self.zero_shot.to_dict(),
            "retrieval": self.retrieval and self.retrieval.to_dict(),
        }


def compare_evaluations(first: Evaluation, second: Evaluation) -> Agreement:
    """Of two models on one data set, over the images that both could read.

    Raises DataError if they have none in common.
    """
    zero_shot, retrieval = None, None
    if first.zero_shot and second.zero_shot:
        rows = _in_both(first.labelled_keys, second.labelled_keys)
        zero_shot = _compare_zero_shot(first.zero_shot, second.zero_shot, *rows)
    if first.retrieval and second.retrieval:
        rows = _in_both(first.captioned_keys, second.captioned_keys)
        retrieval = _compare_retrieval(first.retrieval, second.retrieval, *rows)
    return Agreement(first.model_digest == second.model_digest, zero_shot, retrieval)


def _in_both(first: Sequence[str], second: Sequence[str]) -> tuple[Rows, Rows]:
    """Where each image that is in both stands in the first and in the second."""
    places = {key: row for row, key in enumerate(second)}
    pairs = [(row, places[key]) for row, key in enumerate(first) if key in places]
    if not pairs:
        raise DataError("no image was scored with both models", remedy="score both on the same data set")
    rows = np.array(pairs, dtype=np.int64)
    return rows[:, 0], rows[:, 1]


def _compare_zero_shot(
    first: ZeroShotResult, second: ZeroShotResult, rows: Rows, others: Rows
) -> ZeroShotAgreement:
    ranks, other_ranks = first.ranks[rows], second.ranks[others]
    same = first.predictions[rows] == second.predictions[others]
    return ZeroShotAgreement(
        num_images=len(rows),
        top1=Discordance.count(ranks < 1, other_ranks < 1),
        top5=Discordance.count(ranks < 5, other_ranks < 5) if first.top5 and second.top5 else None,
        mean_per_class=_mean_per_class(first.labels[rows], ranks < 1, other_ranks < 1),
        same_class=Proportion(int(same.sum()), len(same)),
    )


def _mean_per_class(
    labels: Rows, hits: npt.NDArray[np.bool_], other_hits: npt.NDArray[np.bool_]
) -> Difference:
    gains = other_hits.astype(np.int64) - hits
    all_once = np.ones_like(labels)
    ((low, high),) = bootstrap_interval(
        len(labels), lambda drawn: np.array([mean_of_classes(labels, gains, drawn)])
    ).tolist()
    return Difference(
        mean_of_classes(labels, hits, all_once), mean_of_classes(labels, other_hits, all_once), (low, high)
    )


def _compare_retrieval(
    first: RetrievalResult, second: RetrievalResult, rows: Rows, others: Rows
) -> RetrievalAgreement:
    hits, queries = (array[rows] for array in _hits(first))  # [N, 2·K]
    other_hits, _ = (array[others] for array in _hits(second))

    def scores(found: Rows, drawn: Rows) -> npt.NDArray[np.float64]:
        """Image to text, text to image, and the mean of both: [3·K]."""
        shares = (drawn @ found) / (drawn @ queries)
        return np.concatenate([shares, (shares[: len(CUTOFFS)] + shares[len(CUTOFFS) :]) / 2])

    gains, all_once = other_hits - hits, np.ones(len(rows), dtype=np.int64)
    intervals = bootstrap_interval(len(rows), lambda drawn: scores(gains, drawn)).tolist()
    differences = [
        Difference(value, other, (low, high))
        for value, other, (low, high) in zip(
            scores(hits, all_once).tolist(), scores(other_hits, all_once).tolist(), intervals, strict=True
        )
    ]
    count = len(CUTOFFS)

    def by_k(part: list[Difference]) -> dict[int, Difference]:
        return dict(zip(CUTOFFS, part, strict=True))

    return RetrievalAgreement(
        num_images=len(rows),
        image_to_text=by_k(differences[:count]),
        text_to_image=by_k(differences[count : 2 * count]),
        mean_recall=by_k(differences[2 * count :]),
    )


def _hits(result: RetrievalResult) -> tuple[Rows, Rows]:
    """Each image's hits and queries, [N, 2·K]: for each k of image to text, then of text to image."""
    count = len(result.caption_ranks)
    captions = np.bincount(result.owners, minlength=count)
    hits = [(result.caption_ranks < k).astype(np.int64) for k in CUTOFFS]
    for k in CUTOFFS:
        found = result.owners[result.image_ranks < k]
        hits.append(np.bincount(found, minlength=count))
    queries = [np.ones(count, dtype=np.int64)] * len(CUTOFFS) + [captions] * len(CUTOFFS)
    return np.stack(hits, axis=1), np.stack(queries, axis=1)
