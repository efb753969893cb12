"""What a model scores on a data set, and on what that score stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .retrieval import RetrievalResult
from .zero_shot import ZeroShotResult


@dataclass(frozen=True)
class WidthScores:
    """What the first `dimensions` of the same embeddings score, of a model that was trained for that."""

    dimensions: int
    zero_shot: ZeroShotResult | None
    retrieval: RetrievalResult | None

    def to_dict(self) -> dict[str, Any]:
        scores: dict[str, Any] = {"dimensions": self.dimensions}
        if self.zero_shot:
            scores["top1"] = self.zero_shot.top1.to_dict()
        if self.retrieval:
            scores |= {f"mean_recall@{k}": recall for k, recall in self.retrieval.mean_recall.items()}
        return scores


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a data set. zero_shot: where the set has classes; retrieval: where it has captions.

    precision: the model's, None where it cannot be known; image_size: its resolution, in pixels. dataset, protocol: the
    set's name, and which captions it gives. bad_images: how many of the images did not decode
    and were left out; the scores are over num_images. skipped_samples: how many samples of the whole set were
    malformed. labelled_keys, captioned_keys: of the images in the order of zero_shot's and of retrieval's arrays.
    at_widths: the scores of each of the model's widths, the whole one last; none of a model that has one.
    """

    model: str
    model_digest: str
    precision: str | None
    image_size: int
    dataset: str
    protocol: str
    num_images: int
    bad_images: int
    skipped_samples: int
    zero_shot: ZeroShotResult | None
    retrieval: RetrievalResult | None
    labelled_keys: list[str] = field(repr=False)
    captioned_keys: list[str] = field(repr=False)
    at_widths: tuple[WidthScores, ...] = ()

    @property
    def metric(self) -> str:
        """What `score` is: "zero_shot_top1", or without classes "retrieval_recall@1" (mean of both directions)."""
        return "zero_shot_top1" if self.zero_shot else "retrieval_recall@1"

    @property
    def score(self) -> float:
        """The one number of this evaluation, a fraction."""
        if self.zero_shot:
            return self.zero_shot.top1.value
        assert self.retrieval is not None
        return self.retrieval.mean_recall[1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_digest": self.model_digest,
            "precision": self.precision,
            "image_size": self.image_size,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "num_images": self.num_images,
            "bad_images": self.bad_images,
            "skipped_samples": self.skipped_samples,
            "metric": self.metric,
            "score": self.score,
            "zero_shot": self.zero_shot and self.zero_shot.to_dict(),
            "retrieval": self.retrieval and self.retrieval.to_dict(),
            **({"at_widths": [each.to_dict() for each in self.at_widths]} if self.at_widths else {}),
        }
