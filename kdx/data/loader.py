"""The training loader: batches whose order and views are pure functions of seed, epoch and key.

Sample order = f(seed, epoch), view = f(view seed, key, epoch mod K), caption = f(seed, key, epoch). A run that
starts at step n sees the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdx.core.errors import DataError

from .caption_tokens import CaptionTokens
from .chunks import CHUNK, Chunks, Filled, Request
from .order import Order
from .read_ahead import in_processes, in_threads
from .view_reader import ViewReader, check_bad_share

__all__ = ["Batch", "Loader", "ViewReader", "check_bad_share"]

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """rows, views, captions: int64 [B], where each pair came from. pixels: uint8 [B, S, S, 3]. tokens: int32 [B, L].

    pad_id: what shorter texts are filled with. cut: how many captions were longer than the context.
    pixels and tokens lie in pinned memory where there is a GPU, so that a copy to it need not block.
    """

    step: int
    rows: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    captions: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.int32]
    pad_id: int = 0
    cut: int = 0


class Loader:
    """Endless batches over a shard set; an incomplete last batch of an epoch is left out.

    captions: the tokens that go with the images. rank, num_ranks: which of so many processes this is; each gets every
    num_ranks-th row of the same global batch of `batch_size`, which num_ranks divides; for an image that does not
    decode the next row of its own stands in.
    num_workers: that decode, threads for a set that the reader keeps, else processes. Where the CPU trains too, one on
    two cores is best: a second one takes the core from torch's own threads.
    """

    def __init__(
        self,
        reader: ViewReader,
        *,
        captions: CaptionTokens,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 1,
    ) -> None:
        self._order = Order(reader.samples, batch_size, seed, rank, num_ranks)
        self._alone = num_ranks == 1
        self._reader = reader
        self._captions, self._seed = captions, seed
        self._num_workers = num_workers

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start … stop − 1; BATCHES_AHEAD later ones are prepared meanwhile."""
        shared = not self._reader.keeps
        parts = -(-self._order.local_batch_size // CHUNK)
        ahead = max(BATCHES_AHEAD * parts, 2 * self._num_workers)
        ahead = -(-ahead // self._num_workers) * self._num_workers
        # one more is used while those ahead are filled, and one is for what stands in
        chunks = Chunks(self._reader, self._captions, self._seed, ahead + 2, shared=shared)
        asked: deque[tuple[int, int]] = deque()  # of each step: rows asked for, candidates looked at
        requests = self._requests(start, stop, asked, ahead + 1)
        if shared:
            reading = in_processes(chunks, requests, ahead=ahead, num_workers=self._num_workers)
        else:
            reading = in_threads(chunks, requests, ahead=ahead, num_threads=self._num_workers)
        with reading as filled:
            for step in range(start, stop):
                yield self._assemble(step, chunks, filled, asked)

    def _requests(
        self, start: int, stop: int, asked: deque[tuple[int, int]], slots: int
    ) -> Iterator[Request]:
        """Appends to `asked` when the first chunk of a step is asked for."""
        slot = 0
        for step in range(start, stop):
            rows, candidates = self._not_known_bad(step)
            asked.append((len(rows), candidates))
            for first in range(0, max(len(rows), 1), CHUNK):  # one at least, that the step is met
                yield self._request(step, rows[first : first + CHUNK], slot)
                slot = (slot + 1) % slots

    def _not_known_bad(self, step: int) -> tuple[npt.NDArray[np.int64], int]:
        """The rows of a step as far as is known now, and how many candidates were looked at for them."""
        size = self._order.local_batch_size
        rows, candidates = self._order.candidates(step, 0, size), size
        while self._reader.bad:
            rows = rows[~np.isin(rows, list(self._reader.bad))]
            more = self._order.candidates(step, candidates, size - len(rows))
            if not more.size:
                break
            rows, candidates = np.concatenate([rows, more]), candidates + len(more)
        return rows, candidates

    def _request(self, step: int, rows: npt.NDArray[np.int64], slot: int) -> Request:
        epoch = self._order.epoch(step)
        return Request(slot, rows, epoch % self._reader.config.num_views, epoch)

    def _assemble(
        self, step: int, chunks: Chunks, filled: Iterator[Filled], asked: deque[tuple[int, int]]
    ) -> Batch:
        batch = _Assembly(chunks, self._order.local_batch_size)
        first = next(filled)  # asks for the step, if that was not done ahead
        rows, candidates = asked.popleft()
        batch.add(first)
        for _ in range(CHUNK, rows, CHUNK):
            batch.add(next(filled))
        while batch.missing and (row := self._order.candidates(step, candidates, 1)).size:
            candidates += 1
            if int(row[0]) not in self._reader.bad:
                batch.add(chunks.fill(self._request(step, row, len(chunks.pixels) - 1)))
        for row, why in batch.bad.items():
            self._reader.note_bad(row, why)
        if batch.missing and not self._alone:
            raise DataError(
                f"{len(self._reader.bad)} images do not decode, and too few are left for a batch on each process",
                where=self._reader.samples.folder,
                remedy="repair the shards, or lower batch_size",
            )
        return batch.whole(step, self._order.epoch(step) % self._reader.config.num_views)


class _Assembly:
    """Chunks become a batch."""

    def __init__(self, chunks: Chunks, size: int) -> None:
        self.bad: dict[int, str] = {}
        self._chunks, self._size = chunks, size
        self._pixels = _pinned((size, *chunks.pixels.shape[2:]), np.uint8)
        self._tokens = np.zeros((size, chunks.tokens.shape[2]), dtype=chunks.tokens.dtype)
        self._rows: list[npt.NDArray[np.int64]] = []
        self._captions: list[npt.NDArray[np.int64]] = []
        self._count = self._length = self._cut = 0

    @property
    def missing(self) -> int:
        return self._size - self._count

    def add(self, filled: Filled) -> None:
        count = len(filled.rows)
        place = slice(self._count, self._count + count)
        self._pixels[place] = self._chunks.pixels[filled.slot, :count]
        self._tokens[place] = self._chunks.tokens[filled.slot, :count]
        self._rows.append(filled.rows)
        self._captions.append(filled.captions)
        self._count += count
        self._length = max(self._length, filled.length)
        self._cut += filled.cut
        self.bad |= filled.bad

    def whole(self, step: int, view: int) -> Batch:
        tokens = _pinned((self._count, self._length), np.int32)
        tokens[:] = self._tokens[: self._count, : self._length]
        return Batch(
            step=step,
            rows=np.concatenate(self._rows),
            views=np.full(self._count, view, dtype=np.int64),
            captions=np.concatenate(self._captions),
            pixels=self._pixels[: self._count],
            tokens=tokens,
            pad_id=self._chunks.pad_id,
            cut=self._cut,
        )


def _pinned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Not filled."""
    kinds = {np.uint8: torch.uint8, np.int32: torch.int32}
    return torch.empty(shape, dtype=kinds[dtype], pin_memory=torch.cuda.is_available()).numpy()
