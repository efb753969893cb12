"""The exponential moving average of a student's weights, which often scores better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """Of all floating-point weights and batch statistics; what counts batches is copied.

    After step n the decay is min(decay, (1 + n) / (10 + n)), so that a short run does not keep its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._theirs = dict(model.state_dict())  # shares memory with the model
        self.weights = {name: tensor.clone() for name, tensor in self._theirs.items()}
        self._floating = [name for name, tensor in self.weights.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step`, from 1."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for name in self._floating:
            self.weights[name].lerp_(self._theirs[name], rate)
        for name in self.weights.keys() - set(self._floating):
            self.weights[name].copy_(self._theirs[name])

    def load(self, weights: dict[str, Tensor]) -> None:
        _copy(weights, self.weights)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """In this, the model has the averaged weights."""
        kept = {name: tensor.clone() for name, tensor in self._theirs.items()}
        _copy(self.weights, self._theirs)
        try:
            yield
        finally:
            _copy(kept, self._theirs)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
