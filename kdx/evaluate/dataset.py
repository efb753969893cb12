"""Evaluation of any Embedder on a split of a shard folder, each image embedded once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdx.core.encoder import EMBED_BATCH, Embedder, FloatArray
from kdx.core.errors import DataError, UsageError
from kdx.core.preprocess import decode_image
from kdx.core.progress import Progress, silent
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.data.shards import Sample, ShardSet, open_split, read_templates

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
    encoder: Embedder,
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
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} is not positive", remedy="leave it out, or give 1 or more")
    samples = open_split(folder, split)
    templates = read_templates(folder) or list(DEFAULT_TEMPLATES)
    embedded = _embed(encoder, samples, _spread(len(samples), limit), progress)
    evaluation = Evaluation(
        model=encoder.spec.name,
        model_digest=encoder.spec.model_digest,
        split=split,
        num_images=len(embedded.rows),
        bad_images=embedded.bad,
        skipped_samples=len(samples.skipped),
        zero_shot=_zero_shot(encoder, samples, embedded, templates),
        retrieval=_retrieval(encoder, samples, embedded),
    )
    if evaluation.zero_shot is None and evaluation.retrieval is None:
        raise DataError(
            f"the split {split!r} has neither classes with labels nor captions",
            where=folder,
            remedy="add KEY.txt to the shards, or KEY.cls and classes.txt",
        )
    return evaluation


@dataclass
class _Embedded:
    """What could be embedded: the samples' rows [N] and the embeddings, in blocks of [b, D]."""

    rows: list[int] = field(default_factory=list)
    blocks: list[FloatArray] = field(default_factory=list)
    bad: int = 0

    def select(self, positions: Sequence[int]) -> FloatArray:
        """float32 [len(positions), D]"""
        return np.concatenate(self.blocks)[list(positions)]


def _spread(num_samples: int, limit: int | None) -> list[int]:
    """`limit` of the rows, evenly spaced: shards may be sorted by class, so the first ones may be all of one."""
    if limit is None or limit >= num_samples:
        return list(range(num_samples))
    return [i * num_samples // limit for i in range(limit)]


def _embed(encoder: Embedder, samples: ShardSet, rows: list[int], progress: Progress) -> _Embedded:
    embedded = _Embedded()
    for start in range(0, len(rows), EMBED_BATCH):
        batch = {row: samples[row] for row in rows[start : start + EMBED_BATCH]}
        try:
            block = encoder.embed_images([sample.image for sample in batch.values()])
        except DataError:
            readable = {row: sample for row, sample in batch.items() if _decodes(sample)}
            if len(readable) == len(batch):
                raise  # no image is at fault
            embedded.bad += len(batch) - len(readable)
            _check_bad(embedded.bad, len(rows), samples)
            batch = readable
            block = encoder.embed_images([sample.image for sample in readable.values()])
        embedded.rows += batch
        embedded.blocks.append(block)
        progress(min(start + EMBED_BATCH, len(rows)), len(rows))
    return embedded


def _decodes(sample: Sample) -> bool:
    try:
        decode_image(sample.image)
    except DataError as error:
        log.warning("left out sample %s: %s", sample.key, error.what)
        return False
    return True


def _check_bad(bad: int, total: int, samples: ShardSet) -> None:
    if bad > MAX_BAD_SHARE * total:
        raise DataError(
            f"more than a tenth of {total} images do not decode ({bad} so far)",
            where=samples.folder,
            remedy="repair the shards; the log names the samples",
        )


def _zero_shot(
    encoder: Embedder,
    samples: ShardSet,
    embedded: _Embedded,
    templates: list[str],
) -> ZeroShotResult | None:
    if samples.classes is None:
        return None
    labels = [samples.label(row) for row in embedded.rows]
    labelled = {position: label for position, label in enumerate(labels) if label is not None}
    if not labelled:
        return None
    return score_zero_shot(
        embedded.select(list(labelled)),
        np.array(list(labelled.values()), dtype=np.int64),
        class_weights(encoder, samples.classes, templates),
        num_templates=len(templates),
    )


def _retrieval(encoder: Embedder, samples: ShardSet, embedded: _Embedded) -> RetrievalResult | None:
    captions = {position: samples.captions(row) for position, row in enumerate(embedded.rows)}
    captions = {position: own for position, own in captions.items() if own}
    if not captions:
        return None
    return score_retrieval(encoder, embedded.select(list(captions)), list(captions.values()))
