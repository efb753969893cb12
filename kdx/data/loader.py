"""The training loader: batches whose order and views are pure functions of seed, epoch and key.

Sample order = f(seed, epoch), view = f(view seed, key, epoch mod K), caption = f(seed, key, epoch). A run that
starts at step n sees the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError, UsageError
from kdx.core.preprocess import Preprocess
from kdx.core.tokenizer import Tokenizer

from .pixels import read_pixels
from .sample import key_digest
from .shards import ShardSet
from .views import ViewConfig, choose_view, philox

log = logging.getLogger(__name__)

KEEP_DECODED = 2**30  # bytes of rendered views that are kept in memory: small sets are decoded once
PREFETCH = 3  # batches prepared ahead


@dataclass(frozen=True)
class Batch:
    """rows, views, captions: int64 [B], where each pair came from. pixels: uint8 [B, S, S, 3]. tokens: int32 [B, L]."""

    step: int
    rows: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    captions: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.int32]


class ViewReader:
    """Renders views of samples, remembers them while they fit into memory, and counts images that do not decode."""

    def __init__(
        self, samples: ShardSet, preprocess: Preprocess, config: ViewConfig, *, max_bad_share: float
    ) -> None:
        self.samples = samples
        self.config = config
        self.bad: dict[int, str] = {}  # row → why its image does not decode
        self._preprocess = preprocess
        self._max_bad_share = max_bad_share
        self._keys = [key_digest(key) for key in samples.keys]
        size = preprocess.image_size
        shape = (len(samples), config.num_views, size, size, 3)
        keep = int(np.prod(shape)) <= KEEP_DECODED
        self._kept = np.empty(shape, dtype=np.uint8) if keep else None
        self._have = np.zeros(shape[:2], dtype=bool)
        self._lock = threading.Lock()

    def read(self, row: int, view: int) -> npt.NDArray[np.uint8] | None:
        """uint8 [S, S, 3], or None if the image does not decode. Raises DataError when too many do not."""
        if row in self.bad:
            return None
        if self._kept is not None and self._have[row, view]:
            return self._kept[row, view]
        sample = self.samples[row]
        choose = functools.partial(choose_view, self.config, self._keys[row], view)
        try:
            pixels = read_pixels(sample.image, self._preprocess, choose)
        except DataError as error:
            self._note_bad(row, sample.key, error)
            return None
        if self._kept is not None:
            self._kept[row, view] = pixels
            self._have[row, view] = True
        return pixels

    def _note_bad(self, row: int, key: str, error: DataError) -> None:
        with self._lock:
            if row in self.bad:
                return
            self.bad[row] = error.what
            log.warning("skipped sample %s: %s", key, error.what)
            check_bad_share(self.bad, self.samples, self._max_bad_share)


def check_bad_share(bad: dict[int, str], samples: ShardSet, max_bad_share: float) -> None:
    """bad: row → why its image does not decode, in the order in which they were met. Raises DataError for too many."""
    if len(bad) > max_bad_share * len(samples):
        row, why = list(bad.items())[-1]
        raise DataError(
            f"{len(bad)} of {len(samples)} images do not decode, the last one {samples.keys[row]}: {why}",
            where=samples.folder,
            remedy="repair the shards, or raise max_bad_share in the recipe",
        )


def count_steps_per_epoch(samples: ShardSet, batch_size: int) -> int:
    """Whole batches of a set. Raises UsageError if there is not one: call before long work."""
    if batch_size > len(samples):
        raise UsageError(
            f"batch_size = {batch_size} is more than the {len(samples)} samples",
            where=samples.folder,
            remedy=f"--set batch_size={len(samples)}, or give more data",
        )
    return len(samples) // batch_size


class Loader:
    """Endless batches over a shard set; an incomplete last batch of an epoch is left out.

    rank, num_ranks: which of so many processes this is; each gets every num_ranks-th row of the same global batch of
    `batch_size`, which num_ranks divides; for an image that does not decode the next row of its own stands in.
    num_threads: that decode. On two cores a second one made each step of a small model slower: it takes the core
    from torch's own threads and the interpreter from the loop.
    """

    def __init__(
        self,
        reader: ViewReader,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        num_threads: int = 1,
    ) -> None:
        samples = reader.samples
        self.steps_per_epoch = count_steps_per_epoch(samples, batch_size)
        self._reader = reader
        self._batch_size = batch_size
        self._rank, self._num_ranks = rank, num_ranks
        self._num_threads = num_threads
        self._seed = seed
        self._keys = [key_digest(key) for key in samples.keys]
        self._tokens = [
            [tokenizer.encode(caption, context_length) for caption in samples.captions(row)]
            for row in range(len(samples))
        ]
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start … stop − 1, prepared ahead in threads."""
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="kdx-decode") as pool:
            ahead: list[Future[Batch]] = []
            for step in range(start, min(start + PREFETCH, stop)):
                ahead.append(pool.submit(self._make, step, self._epoch_order(step)))
            for step in range(start, stop):
                batch = ahead.pop(0).result()
                if step + PREFETCH < stop:
                    later = step + PREFETCH
                    ahead.append(pool.submit(self._make, later, self._epoch_order(later)))
                yield batch

    def _epoch_order(self, step: int) -> npt.NDArray[np.int64]:
        """All rows of this step's epoch. Called by one thread."""
        epoch = step // self.steps_per_epoch
        if self._order[0] != epoch:
            random = philox(self._seed, epoch)
            self._order = (epoch, random.permutation(len(self._keys)))
        return self._order[1]

    def _candidates(self, step: int, order: npt.NDArray[np.int64]) -> Iterator[int]:
        """Rows from this step's batch on, around the whole epoch: what comes after the batch stands in."""
        start = step % self.steps_per_epoch * self._batch_size
        for place in range(self._rank, len(order), self._num_ranks):
            yield int(order[(start + place) % len(order)])

    def _make(self, step: int, order: npt.NDArray[np.int64]) -> Batch:
        epoch = step // self.steps_per_epoch
        view = epoch % self._reader.config.num_views
        rows: list[int] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        count = self._batch_size // self._num_ranks
        for row in self._candidates(step, order):
            rendered = self._reader.read(row, view)
            if rendered is None:
                continue  # the next row in order stands in
            rows.append(row)
            pixels.append(rendered)
            if len(rows) == count:
                break
        if len(rows) < count and self._num_ranks > 1:
            raise DataError(
                f"{len(self._reader.bad)} images do not decode, and too few are left for a batch on each process",
                where=self._reader.samples.folder,
                remedy="repair the shards, or lower batch_size",
            )
        captions = [self._caption(row, epoch) for row in rows]
        return Batch(
            step=step,
            rows=np.array(rows, dtype=np.int64),
            views=np.full(len(rows), view, dtype=np.int64),
            captions=np.array(captions, dtype=np.int64),
            pixels=np.stack(pixels),
            tokens=Tokenizer.pad(
                [self._tokens[row][caption] for row, caption in zip(rows, captions, strict=True)]
            ),
        )

    def _caption(self, row: int, epoch: int) -> int:
        choices = len(self._tokens[row])
        if choices == 1:
            return 0
        random = philox(self._seed, self._keys[row], epoch)
        return int(random.integers(choices))
