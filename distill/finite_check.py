"""Notices a loss that is not finite without waiting for the device at each step."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteCheck:
    """Remembers, on the device, the numbers of the first step whose loss was not finite."""

    def __init__(self, device: torch.device) -> None:
        self._step = torch.full((), -1, dtype=torch.long, device=device)
        self._names: list[str] = []
        self._numbers = torch.empty(0, device=device)

    def note(self, step: int, numbers: dict[str, Tensor]) -> None:
        """numbers: "loss" and others, the same ones at each step. Waits for nothing."""
        values = torch.stack([number.detach() for number in numbers.values()])
        news = (self._step < 0) & ~numbers["loss"].detach().isfinite()
        self._step = torch.where(news, step, self._step)
        self._numbers = torch.where(news, values, self._numbers) if self._names else values
        self._names = list(numbers)

    def found(self) -> tuple[int, list[str]] | None:
        """The first such step and the names of its numbers that were not finite, or None. Waits for the device."""
        step = int(self._step)
        if step < 0:
            return None
        finite = self._numbers.isfinite().tolist()
        return step, [name for name, good in zip(self._names, finite, strict=True) if not good]
