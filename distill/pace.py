"""How fast a run goes and what it uses, between two steps whose numbers are read."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from kdx.evaluate.speed import peak_of_this_process

from .devices import Device
from .distillation import Inputs
from .peaks import peak_flops
from .recipe import Recipe
from .step_flops import StepFlops


class Pace:
    """batch_size: the pairs of a step on all ranks; all else is of this one."""

    def __init__(self, recipe: Recipe, batch_size: int, device: Device) -> None:
        self._batch_size, self._device = batch_size, device
        self._peak = peak_flops(device)
        self._step_flops = None if self._peak is None else StepFlops(recipe)
        self.restart()

    def restart(self) -> None:
        """Here the time begins that the next numbers are of."""
        self._since = time.monotonic()
        self._waited, self._steps, self._flops = 0.0, 0, 0.0

    def waited(self, seconds: float) -> None:
        """For a batch."""
        self._waited += seconds

    def stepped(self, parts: Sequence[Inputs]) -> None:
        """Asks the device for nothing."""
        self._steps += 1
        if self._step_flops is not None:
            for part in parts:
                blocks = [(block.shape[0], block.shape[1]) for block in part.texts.blocks]
                self._flops += self._step_flops.of(len(part.pixels), blocks)

    def read(self) -> dict[str, float]:
        """Since `restart`: pairs a second, the share of the time in which there was no batch, the peak of the memory
        (the GPU's, or else the process's) since it started, and where a peak is known, its share (MFU).
        """
        seconds = max(time.monotonic() - self._since, 1e-9)
        numbers = {
            "pairs_per_second": self._steps * self._batch_size / seconds,
            "seconds_waiting_share": self._waited / seconds,
            "peak_mib": _peak_mib(self._device),
        }
        if self._peak is not None:
            numbers["mfu"] = self._flops / seconds / self._peak
        return numbers


def _peak_mib(device: Device) -> float:
    if device.is_gpu:
        return torch.cuda.max_memory_allocated(device.place) / 2**20
    return peak_of_this_process()
