"""A process's own rows of a batch, and the columns of the whole batch that a loss compares them with."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from .ranks import ALONE, Ranks

Logits = tuple[Tensor, Tensor]  # image → text and text → image, [b, B] each


@dataclass(frozen=True)
class LocalRows:
    """Embeddings of one model: image and text of this process's b pairs, [b, D] each, of unit norm.

    scale: [], the multiplier of its logits; bias: [], of a sigmoid model. ranks: the processes over which the batch of
    B pairs is spread; alone b = B. What the other processes embedded is asked for when a loss needs it, once, and
    carries gradient.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None = None
    ranks: Ranks = ALONE

    @property
    def first(self) -> int:
        """The number of the first own row in the whole batch: the pair of row k stands in column first + k."""
        return self.ranks.rank * len(self.image)

    @property
    def batch_size(self) -> int:
        return self.ranks.size * len(self.image)

    @functools.cached_property
    def all_images(self) -> Tensor:
        """[B, D]"""
        return self.ranks.gather(self.image)

    @functools.cached_property
    def all_texts(self) -> Tensor:
        """[B, D]"""
        return self.ranks.gather(self.text)

    def image_to_text(self, scale: Tensor | float | None = None) -> Tensor:
        """[b, B]: own images against all texts, with the own scale or another one."""
        return (self.scale if scale is None else scale) * self.image @ self.all_texts.T

    def logits(self, scale: Tensor | float | None = None) -> Logits:
        """Both directions: own images against all texts and own texts against all images."""
        image_to_text = self.image_to_text(scale)
        if self.ranks.size == 1:
            return image_to_text, image_to_text.T  # one product gives both
        return image_to_text, (self.scale if scale is None else scale) * self.text @ self.all_images.T

    def logits_to(self, other: LocalRows, scale: Tensor) -> Logits:
        """Own images against all texts of another model, own texts against all its images."""
        return scale * self.image @ other.all_texts.T, scale * self.text @ other.all_images.T
