"""How many floating-point operations a step of training needs: those of the student, forward and backward.

As the share of a device's peak is defined (MFU, arXiv 2204.02311, appendix B): what is computed a second time to spare
memory does not count, and here neither do the losses, the optimiser and a teacher that is asked at each step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kdx.models.flops import count_flops

from .model_config import Tower
from .recipe import Recipe

FORWARD_AND_BACKWARD = 3  # a backward pass costs two forward passes


class StepFlops:
    """Of one recipe, for steps with any number of pairs and any lengths of texts."""

    def __init__(self, recipe: Recipe) -> None:
        architecture = recipe.architecture
        context = architecture.text_cfg.context_length
        mask = recipe.objective.mask_ratio if recipe.objective.masks_patches else None
        # what a text costs is c₀ + c₁ · length + c₂ · length²: projection, layers, attention
        lengths = [max(1, context // 4), max(2, context // 2), context]
        counts = [count_flops(architecture, length, mask) for length in lengths]
        text = np.polynomial.Polynomial.fit(lengths, [each.text for each in counts], deg=2)
        self._text = text.convert() * _passes(recipe, "text")
        self._image = (counts[0].image + counts[0].masked_image) * _passes(recipe, "image")

    def of(self, pairs: int, blocks: Iterable[tuple[int, int]]) -> float:
        """blocks: rows and length of each block of texts."""
        return pairs * self._image + sum(rows * float(self._text(length)) for rows, length in blocks)


def _passes(recipe: Recipe, tower: Tower) -> int:
    return 1 if tower in recipe.model.locked else FORWARD_AND_BACKWARD
