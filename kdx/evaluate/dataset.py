"""Evaluation of any Embedder on a split of a shard folder, each image embedded once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError
from kdx.core.progress import Progress, silent
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.core.requests import check_count
from kdx.core.tolerance import embed_readable
from kdx.data.sampling import spread
from kdx.data.shards import ShardSet, open_split, read_templates

from .retrieval import RetrievalResult, score_retrieval
from .zero_shot import ZeroShotResult, class_weights, score_zero_shot

log = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.1  # with more images missing the score would say little about the set


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a split. zero_shot: where the set has classes; retrieval: where it has captions.

    bad_images: how many of the images did not decode and were left out; the scores are over num_images.
    skipped_samples: how many samples of the whole split were malformed in the shards.
    """

    model: str
    model_digest: str
    split: str
    num_images: int
    bad_images: int
    skipped_samples: int
    zero_shot: ZeroShotResult | None
    retrieval: RetrievalResult | None

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
            "split": self.split,
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
    """Zero-shot accuracy and retrieval recall on a split of a shard folder.

    limit: how many samples to take, evenly spread over the split. An image that does not decode is logged,
    counted and left out. Raises DataError when more than a tenth do not, or when the split has neither classes
    nor captions; UsageError for a limit below 1.
    """
    if limit is not None:
        check_count(limit, "limit")
    samples = open_split(folder, split, need_captions=False)
    _check_task(samples, split)
    templates = read_templates(folder) or list(DEFAULT_TEMPLATES)
    chosen = spread(len(samples), limit or len(samples))
    rows, images = _embed(embedder, samples, chosen, progress)
    return Evaluation(
        model=embedder.spec.name,
        model_digest=embedder.spec.model_digest,
        split=split,
        num_images=len(rows),
        bad_images=len(chosen) - len(rows),
        skipped_samples=len(samples.skipped),
        zero_shot=_zero_shot(embedder, samples, rows, images, templates),
        retrieval=_retrieval(embedder, samples, rows, images),
    )


def _check_task(samples: ShardSet, split: str) -> None:
    """Before anything is embedded."""
    rows = range(len(samples))
    labelled = samples.classes is not None and any(samples.label(row) is not None for row in rows)
    if not labelled and not any(samples.captions(row) for row in rows):
        raise DataError(
            f"the split {split!r} has neither classes with labels nor captions",
            where=samples.folder,
            remedy="add KEY.txt to the shards, or KEY.cls and classes.txt",
        )


def _embed(
    embedder: Embedder, samples: ShardSet, rows: list[int], progress: Progress
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
                where=samples.folder,
                remedy="repair the shards; the log names the samples",
            )

    images = (samples[row].image for row in rows)
    readable = embed_readable(embedder, images, len(rows), leave_out, progress=progress)
    return [rows[number] for number in readable.rows], readable.embeddings


def _zero_shot(
    embedder: Embedder, samples: ShardSet, rows: list[int], images: FloatArray, templates: list[str]
) -> ZeroShotResult | None:
    if samples.classes is None:
        return None
    labels = {position: samples.label(row) for position, row in enumerate(rows)}
    labelled = {position: label for position, label in labels.items() if label is not None}
    if not labelled:
        return None
    return score_zero_shot(
        images[list(labelled)],
        np.array(list(labelled.values()), dtype=np.int64),
        class_weights(embedder, samples.classes, templates),
        num_templates=len(templates),
    )


def _retrieval(
    embedder: Embedder, samples: ShardSet, rows: list[int], images: FloatArray
) -> RetrievalResult | None:
    captions = {position: samples.captions(row) for position, row in enumerate(rows)}
    captions = {position: own for position, own in captions.items() if own}
    if not captions:
        return None
    return score_retrieval(embedder, images[list(captions)], list(captions.values()))
