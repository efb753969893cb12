"""Where training gets from what a teacher says of a batch: a cache, or the teacher itself."""

from __future__ import annotations

from typing import Protocol

import torch

from kdx.data.loader import Batch

from .objective import Embeddings


class TeacherSource(Protocol):
    """One teacher of a run. embed_dim: its D; reused: whether what it says lay there already; online: whether it is
    asked at each step.
    """

    @property
    def embed_dim(self) -> int: ...

    @property
    def reused(self) -> bool: ...

    @property
    def online(self) -> bool: ...

    def of_batch(self, batch: Batch, device: torch.device) -> Embeddings:
        """float32 [B, D] twice, unit rows on `device`, with the teacher's scale and bias."""
        ...
