"""Evaluation of any Embedder on a data set, each image embedded once."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdx.core.digests import value_digest
from kdx.core.dimensions import first_dimensions
from kdx.core.encoder import Embedder, Encoder, FloatArray
from kdx.core.errors import DataError, UsageError
from kdx.core.progress import Progress, silent
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.core.requests import check_count
from kdx.core.urls import shown, url_of
from kdx.data.image_set import ImageSet
from kdx.data.sampling import spread
from kdx.data.shards import open_split

from .classifier import classifier
from .embedding import EmbeddedImages, embed_set, embed_texts, images_a_piece
from .evaluation import Evaluation, WidthScores
from .pixels import reads_fast
from .retrieval import RetrievalResult, score_retrieval
from .sharing import Alone, Peers, Workplace, workplace
from .zero_shot import ZeroShotResult, score_zero_shot

ALONE = Alone()


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
    embedder: Embedder,
    samples: ImageSet,
    *,
    limit: int | None = None,
    progress: Progress = silent,
    peers: Peers = ALONE,
) -> Evaluation:
    """Zero-shot accuracy and retrieval recall on a data set.

    limit: how many samples to take, evenly spread over the set. peers: the processes that share the work, all of which
    get the whole result. An image that does not decode is logged, counted and left out. After an interruption the
    same call goes on where it stopped.

    Raises DataError when more than a tenth of the images do not decode, or when the set has neither classes nor
    captions; UsageError for a limit below 1; SetupError where several processes have no cache folder in common.
    """
    if limit is not None:
        check_count(limit, "limit")
    check_task(samples)
    chosen = np.arange(len(samples)) if limit is None else np.array(spread(len(samples), limit), np.int64)
    with workplace(_work_name(embedder, samples, chosen, peers), peers) as work:
        images = embed_set(embedder, samples, chosen, work, progress)
        labelled, zero_shot = _zero_shot(embedder, samples, images, work, progress)
        captioned, retrieval = _retrieval(embedder, samples, images, work, progress)
    at_widths = tuple(
        WidthScores(width, zero_shot.get(width), retrieval.get(width)) for width in embedder.spec.widths
    )
    whole = at_widths[-1]
    return Evaluation(
        model=embedder.spec.name,
        model_digest=embedder.spec.model_digest,
        precision=embedder.precision,
        image_size=embedder.spec.image_size,
        dataset=samples.name,
        protocol=samples.protocol,
        num_images=len(images.rows),
        bad_images=images.refused,
        skipped_samples=len(samples.skipped),
        zero_shot=whole.zero_shot,
        retrieval=whole.retrieval,
        labelled_keys=labelled,
        captioned_keys=captioned,
        at_widths=at_widths if len(at_widths) > 1 else (),
    )


def _work_name(
    embedder: Embedder, samples: ImageSet, rows: npt.NDArray[np.int64], peers: Peers
) -> str | None:
    """The same for the same work, None for what is not kept."""
    piece = images_a_piece(len(rows), peers.size)
    if peers.size == 1 and (embedder.identity is None or len(rows) <= piece):
        return None
    if embedder.identity is None:
        raise UsageError(
            "several processes cannot tell whether this is the same model for all of them",
            where=embedder.spec.name,
            remedy="score it with one process",
        )
    made_by = [embedder.identity, embedder.spec.to_dict()]
    if isinstance(embedder, Encoder):
        made_by += [embedder.preprocess.digest, reads_fast(len(rows))]
    where = [
        samples.name,
        str(samples.place.resolve()) if url_of(samples.place) is None else shown(samples.place),
    ]
    keys = hashlib.sha256(samples.key_digests[rows].tobytes()).hexdigest()
    return value_digest([made_by, where, keys, piece])


def check_task(samples: ImageSet) -> None:
    """Raises DataError for a set with neither classes nor captions. Call before anything is embedded."""
    labelled = samples.classes is not None and (samples.labels >= 0).any()
    if not labelled and not samples.caption_counts.any():
        raise DataError(
            f"{samples.name} has neither classes with labels nor captions",
            where=samples.place,
            remedy="add KEY.txt to the shards, or KEY.cls and classes.txt",
        )


def _zero_shot(
    embedder: Embedder, samples: ImageSet, images: EmbeddedImages, work: Workplace, progress: Progress
) -> tuple[list[str], dict[int, ZeroShotResult]]:
    """With the keys of the images that have a label; by the model's widths."""
    labels = samples.labels[images.rows]
    labelled = labels >= 0
    if samples.classes is None or not labelled.any():
        return [], {}
    templates = samples.templates or list(DEFAULT_TEMPLATES)
    widths = embedder.spec.widths
    side_by_side = classifier(embedder, samples.classes, templates, work, progress)
    weights = np.split(side_by_side, np.cumsum(widths)[:-1], axis=1)
    found = _part(images.embeddings, labelled)
    results = {
        width: score_zero_shot(
            first_dimensions(found, width),
            labels[labelled].astype(np.int64),
            its,
            num_templates=len(templates),
        )
        for width, its in zip(widths, weights, strict=True)
    }
    rows: list[int] = images.rows[labelled].tolist()
    return [samples.keys[row] for row in rows], results


def _retrieval(
    embedder: Embedder, samples: ImageSet, images: EmbeddedImages, work: Workplace, progress: Progress
) -> tuple[list[str], dict[int, RetrievalResult]]:
    """With the keys of the images that have captions; by the model's widths."""
    captioned = samples.caption_counts[images.rows] > 0
    rows: list[int] = images.rows[captioned].tolist()
    if not rows:
        return [], {}
    texts: list[FloatArray] = []

    def first_of_texts(width: int, distinct: list[str]) -> FloatArray:
        """The same texts at each width: they are embedded once."""
        if not texts:
            texts.append(embed_texts(embedder, distinct, work, progress))
        return first_dimensions(texts[0], width)

    found = _part(images.embeddings, captioned)
    captions = [samples.captions(row) for row in rows]
    results = {
        width: score_retrieval(
            functools.partial(first_of_texts, width), first_dimensions(found, width), captions
        )
        for width in embedder.spec.widths
    }
    return [samples.keys[row] for row in rows], results


def _part(embeddings: FloatArray, rows: npt.NDArray[np.bool_]) -> FloatArray:
    """Of all rows no copy."""
    return embeddings if rows.all() else embeddings[rows]
