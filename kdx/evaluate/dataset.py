"""Evaluation of any Embedder on a data set, each image embedded once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError
from kdx.core.progress import Progress, silent
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.core.requests import check_count
from kdx.core.tolerance import embed_readable
from kdx.data.image_set import ImageSet
from kdx.data.sampling import spread
from kdx.data.shards import open_split

from .retrieval import RetrievalResult, score_retrieval
from .zero_shot import ZeroShotResult, class_weights, score_zero_shot

log = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.1  # with more images missing the score would say little about the set


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a data set. zero_shot: where the set has classes; retrieval: where it has captions.

    dataset, protocol: the set's name, and which captions it gives. bad_images: how many of the images did not decode
    and were left out; the scores are over num_images. skipped_samples: how many samples of the whole set were
    malformed. labelled_keys, captioned_keys: of the images in the order of zero_shot's and of retrieval's arrays.
    """

    model: str
    model_digest: str
    dataset: str
    protocol: str
    num_images: int
    bad_images: int
    skipped_samples: int
    zero_shot: ZeroShotResult | None
    retrieval: RetrievalResult | None
    labelled_keys: list[str] = field(repr=False)
    captioned_keys: list[str] = field(repr=False)

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
            "dataset": self.dataset,
            "protocol": self.protocol,
            "num_images": self.num_images,
            "bad_images": self.bad_images,
            "skipped_samples": self.skipped_samples,
            "metric": self.metric,
            "score": self.score,
            "zero_shot": self.zero_shot and self.zero_shot.to_dict(),
            "retrieval": self.retrieval and self.retrieval.to_dict(),
        }


def evaluate_dataset(
    embedder: Embedder,
    folder: Path,
    *,
    split: str = "val",
    limit: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """`evaluate_set` of a split of a shard folder."""
    samples = open_split(folder, split, need_captions=False)
    return evaluate_set(embedder, samples, limit=limit, progress=progress)


def evaluate_set(
    embedder: Embedder, samples: ImageSet, *, limit: int | None = None, progress: Progress = silent
) -> Evaluation:
    """Zero-shot accuracy and retrieval recall on a data set.

    limit: how many samples to take, evenly spread over the set. An image that does not decode is logged, counted and
    left out. Raises DataError when more than a tenth do not, or when the set has neither classes nor captions;
    UsageError for a limit below 1.
    """
    if limit is not None:
        check_count(limit, "limit")
    _check_task(samples)
    templates = samples.templates or list(DEFAULT_TEMPLATES)
    chosen = spread(len(samples), limit or len(samples))
    rows, images = _embed(embedder, samples, chosen, progress)
    labelled = [p for p, row in enumerate(rows) if samples.classes and samples.label(row) is not None]
    captioned = [p for p, row in enumerate(rows) if samples.captions(row)]
    return Evaluation(
        model=embedder.spec.name,
        model_digest=embedder.spec.model_digest,
        dataset=samples.name,
        protocol=samples.protocol,
        num_images=len(rows),
        bad_images=len(chosen) - len(rows),
        skipped_samples=len(samples.skipped),
        zero_shot=_zero_shot(embedder, samples, [rows[p] for p in labelled], images[labelled], templates),
        retrieval=_retrieval(embedder, samples, [rows[p] for p in captioned], images[captioned]),
        labelled_keys=[samples.keys[rows[p]] for p in labelled],
        captioned_keys=[samples.keys[rows[p]] for p in captioned],
    )


def _check_task(samples: ImageSet) -> None:
    """Before anything is embedded."""
    rows = range(len(samples))
    labelled = samples.classes is not None and any(samples.label(row) is not None for row in rows)
    if not labelled and not any(samples.captions(row) for row in rows):
        raise DataError(
            f"{samples.name} has neither classes with labels nor captions",
            where=samples.place,
            remedy="add KEY.txt to the shards, or KEY.cls and classes.txt",
        )


def _embed(
    embedder: Embedder, samples: ImageSet, rows: list[int], progress: Progress
) -> tuple[list[int], FloatArray]:
    """The rows whose image could be embedded, and their embeddings [N, D]."""
    bad = 0

    def leave_out(number: int, error: DataError) -> None:
        nonlocal bad
        bad += 1
        log.warning("left out sample %s: %s", samples.keys[rows[number]], error.what)
        if bad > MAX_BAD_SHARE * len(rows):
            raise DataError(
                f"more than a tenth of {len(rows)} images do not decode ({bad} so far)",
                where=samples.place,
                remedy="repair the files; the log names the samples",
            )

    images = (samples.image(row) for row in rows)
    readable = embed_readable(embedder, images, len(rows), leave_out, progress=progress)
    return [rows[number] for number in readable.rows], readable.embeddings


def _zero_shot(
    embedder: Embedder, samples: ImageSet, rows: list[int], images: FloatArray, templates: list[str]
) -> ZeroShotResult | None:
    """rows: those with a label."""
    if not rows:
        return None
    assert samples.classes is not None
    return score_zero_shot(
        images,
        np.array([samples.label(row) for row in rows], dtype=np.int64),
        class_weights(embedder, samples.classes, templates),
        num_templates=len(templates),
    )


def _retrieval(
    embedder: Embedder, samples: ImageSet, rows: list[int], images: FloatArray
) -> RetrievalResult | None:
    """rows: those with captions."""
    return score_retrieval(embedder, images, [samples.captions(row) for row in rows]) if rows else None
