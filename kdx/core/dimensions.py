"""The first dimensions of embeddings, of models whose first ones are an embedding by themselves.

Matryoshka representations (arXiv 2205.13147): a student that was trained with `objective.dims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UsageError
from .spelling import listed

if TYPE_CHECKING:
    from .encoder import EncoderSpec, FloatArray


def first_dimensions(embeddings: FloatArray, dimensions: int | None) -> FloatArray:
    """The first ones of each row, to length 1. embeddings: float32 [N, D], unit rows. Returns [N, dimensions].

    None, or all of them, are the rows as they are. A row whose first ones are all 0 stays 0.
    """
    if dimensions is None or dimensions == embeddings.shape[1]:
        return embeddings
    first = embeddings[:, :dimensions]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), np.float32(1e-12))


def check_dimensions(spec: EncoderSpec, dimensions: int | None) -> None:
    """Raises UsageError for a width that the model was not trained for."""
    if dimensions is None:
        return
    trained = spec.widths
    if isinstance(dimensions, bool | float) or dimensions not in trained:
        several = len(trained) > 1
        raise UsageError(
            f"dimensions = {dimensions!r}: {spec.name} was trained for embeddings of "
            f"{listed(trained, 'or')} numbers{'' if several else ' alone'}",
            remedy="give one of these"
            if several
            else "leave it out, or train a student for several widths with objective.dims",
        )


def are_widths(dims: Sequence[Any], embed_dim: int) -> bool:
    """Whether these can be a model's: none, or whole numbers that rise to its embedding's."""
    whole = all(type(each) is int and each >= 1 for each in dims)
    return not dims or (whole and list(dims) == sorted(set(dims)) and dims[-1] == embed_dim)
