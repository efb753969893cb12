"""The zero-shot classifier of a model: made once for its names and templates, and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kdx.core.cache import cache_folder
from kdx.core.digests import value_digest
from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import SetupError
from kdx.core.progress import Progress
from kdx.core.requests import check_labels, check_templates

from .embedding import TEXTS_A_PIECE
from .sharing import Workplace
from .stored import Arrays, read_arrays, write_arrays
from .zero_shot import weights_side_by_side

log = logging.getLogger(__name__)

WEIGHTS = "weights"


def classifier(
    embedder: Embedder, classes: Sequence[str], templates: Sequence[str], work: Workplace, progress: Progress
) -> FloatArray:
    """`weights_side_by_side`, from kdx's cache where they are there whole, else made and kept there."""
    classes, templates = check_labels(classes), check_templates(templates)
    path = _place(embedder, classes, templates)
    kept = None if path is None else _read(path, (len(classes), sum(embedder.spec.widths)))
    if kept is not None and work.peers.size == 1:
        return kept
    # of several processes one may find a file that another one did not find yet: all share, and wait for each other
    weights = _make(embedder, classes, templates, kept, work, progress)
    if kept is None and path is not None and work.peers.rank == 0:
        try:
            write_arrays(path, {WEIGHTS: weights})
        except SetupError as error:
            log.info("the classifier is not kept: %s", error)
    return weights


def _make(
    embedder: Embedder,
    classes: list[str],
    templates: list[str],
    kept: FloatArray | None,
    work: Workplace,
    progress: Progress,
) -> FloatArray:
    """kept: what this process has of it already."""
    size = max(1, TEXTS_A_PIECE // len(templates))
    pieces = [classes[start : start + size] for start in range(0, len(classes), size)]

    def digest(number: int) -> str:
        return value_digest([pieces[number], templates])

    def make(numbers: Sequence[int]) -> Iterator[tuple[str, Arrays]]:
        for number in numbers:
            if kept is None:
                weights = weights_side_by_side(embedder, pieces[number], templates)
            else:
                weights = kept[number * size : (number + 1) * size]
            progress(min((number + 1) * size, len(classes)), len(classes), "classes")
            yield digest(number), {WEIGHTS: weights}

    return np.concatenate([each[WEIGHTS] for each in work.share("classes", len(pieces), digest, make)])


def _place(embedder: Embedder, classes: list[str], templates: list[str]) -> Path | None:
    """None for a model that cannot be told from others, and without a cache folder."""
    if embedder.identity is None:
        return None
    try:
        folder = cache_folder() / "classifiers"
    except SetupError:
        return None
    return folder / f"{value_digest([embedder.identity, classes, templates])}.npz"


def _read(path: Path, shape: tuple[int, int]) -> FloatArray | None:
    kept = read_arrays(path)
    weights = None if kept is None else kept.get(WEIGHTS)
    if weights is None or weights.shape != shape or weights.dtype != np.float32:
        return None
    return weights
