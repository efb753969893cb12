"""Which pairs a step sees: a pure function of the seed and the step, the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdx.core.errors import UsageError

from .shards import ShardSet
from .views import philox


def count_steps_per_epoch(samples: ShardSet, batch_size: int) -> int:
    """Whole batches of a set. Raises UsageError if there is not one: call before long work."""
    if batch_size > len(samples):
        raise UsageError(
            f"batch_size = {batch_size} is more than the {len(samples)} samples",
            where=samples.folder,
            remedy=f"--set batch_size={len(samples)}, or give more data",
        )
    return len(samples) // batch_size


class Order:
    """The rows of a set in a new random order each epoch, batch by batch; an incomplete last batch is left out.

    rank, num_ranks: which of so many processes this is; each gets every num_ranks-th row of the same global batch of
    `batch_size`, which num_ranks divides.
    """

    def __init__(
        self, samples: ShardSet, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.steps_per_epoch = count_steps_per_epoch(samples, batch_size)
        self.local_batch_size = batch_size // num_ranks
        self.num_candidates = -(-(len(samples) - rank) // num_ranks)  # this rank's rows of an epoch
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._num_ranks = rank, num_ranks
        self._total = len(samples)
        self._epochs: dict[int, npt.NDArray[np.uint32]] = {}

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def candidates(self, step: int, first: int, count: int) -> npt.NDArray[np.int64]:
        """Candidates first … first + count − 1 of a step: its own rows, then those that may stand in for images of it
        that do not decode, around the whole epoch.
        """
        numbers = np.arange(first, min(first + count, self.num_candidates))
        start = step % self.steps_per_epoch * self._batch_size
        places = (start + self._rank + numbers * self._num_ranks) % self._total
        return self._permutation(self.epoch(step))[places].astype(np.int64)

    def _permutation(self, epoch: int) -> npt.NDArray[np.uint32]:
        """Of all rows; those of two epochs are kept, because batches are made ahead of the one that is seen."""
        if epoch not in self._epochs:
            self._epochs = {kept: rows for kept, rows in self._epochs.items() if kept == epoch - 1}
            rows = np.arange(self._total, dtype=np.uint32)
            self._epochs[epoch] = philox(self._seed, epoch).permutation(rows)
        return self._epochs[epoch]
