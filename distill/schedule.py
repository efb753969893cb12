"""How long a run trains, with how many pairs a step, and how its learning rate moves. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_WARMUP = 10_000  # steps; CLIP-KD's, of its 401,888
WARMUP_SHARE = 10  # one step in so many
BATCHES = 4  # an epoch has at least so many of a batch that is chosen from the data …
BATCH_LIMITS = (16, 256)  # … within these limits


@dataclass(frozen=True)
class Schedule:
    """The numbers of one run: optimiser steps, pairs a step, and steps until the learning rate is reached."""

    steps: int
    batch_size: int
    warmup_steps: int

    def learning_rate(self, peak: float, step: int) -> float:
        """Linear from peak / warmup_steps over the warm-up, then half-cosine to 0 at the last step. step: from 0."""
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return peak * (1 + math.cos(math.pi * progress)) / 2


def fitting_batch_size(pairs: int) -> int:
    """The largest power of two of which an epoch has BATCHES, within BATCH_LIMITS, and never more than all pairs."""
    smallest, largest = BATCH_LIMITS
    fitting = 2 ** int(math.log2(max(1, pairs // BATCHES)))
    return min(max(smallest, min(largest, fitting)), pairs)


def default_warmup(steps: int) -> int:
    """A tenth of the steps, at most CLIP-KD's number."""
    return min(MAX_WARMUP, steps // WARMUP_SHARE)
