"""What a teacher says of one shard: every view of every image, and every caption, as tensors to be stored.

Images are decoded in threads while others are embedded. Equal captions are embedded once, in batches of about one
length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdx.core.ahead import running_ahead
from kdx.core.encoder import batched
from kdx.core.errors import DataError
from kdx.data.caption_tokens import CaptionTokens, Ids
from kdx.data.loader import check_bad_share
from kdx.data.pixels import read_views
from kdx.data.shards import ShardSet
from kdx.data.views import ViewConfig, choose_view

from .identity import Teacher
from .storage import Column, Pixels, Storage

IMAGES = 256 if torch.cuda.is_available() else 64  # in a batch
TEXTS = 256
DECODED_AHEAD = 3  # batches


class ShardEmbedder:
    """One process's part of building a cache. bad: row → why its image does not decode, of the shards done so far."""

    def __init__(
        self,
        teacher: Teacher,
        samples: ShardSet,
        views: ViewConfig,
        storage: Storage,
        max_bad_share: float,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.teacher, self.samples, self.views = teacher, samples, views
        self.bad: dict[int, str] = {}
        self._storage: Storage = storage
        self._max_bad_share, self._pool = max_bad_share, pool

    def embed(self, rows: range, done: Callable[[int], None]) -> dict[str, Tensor]:
        """The tensors of a shard's file. done: told how many of the rows' images are embedded.

        Raises DataError when too many images do not decode; each of those is left zero.
        """
        return {
            **self._images(rows, done).tensors("image"),
            **self._texts(rows).tensors("text"),
            "key": torch.from_numpy(self.samples.key_digests[rows.start : rows.stop].copy()),
        }

    def _images(self, rows: range, done: Callable[[int], None]) -> Column:
        num_views = self.views.num_views
        column = Column((len(rows), num_views, self.teacher.spec.embed_dim), self._storage)
        for places, embeddings in running_ahead(self._embedded(rows), 1):  # a GPU computes the next meanwhile
            column.put(places // num_views, places % num_views, embeddings)
            done(int(places[-1]) // num_views + 1)
        return column

    def _embedded(self, rows: range) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """places: row · K + view, from the shard's first."""
        for batch in batched(self._decoded(rows), IMAGES):
            pixels = np.stack([pixels for _, pixels in batch])  # uint8 [B, S, S, 3]
            yield np.array([place for place, _ in batch]), self.teacher.embed_pixels(pixels)

    def _decoded(self, rows: range) -> Iterator[tuple[int, Pixels]]:
        """Place and pixels of all views of what decodes."""
        num_views = self.views.num_views
        waiting = ((row, self._pool.submit(self._read, row)) for row in rows)
        ahead = max(1, DECODED_AHEAD * IMAGES // num_views)
        for row, decoded in running_ahead(waiting, ahead):
            try:
                views = decoded.result()
            except DataError as error:
                self.bad[row] = error.what
                check_bad_share(self.bad, self.samples, self._max_bad_share)
                continue
            for view, pixels in enumerate(views):
                yield (row - rows.start) * num_views + view, pixels

    def _read(self, row: int) -> list[Pixels]:
        """[S, S, 3] of each view."""
        key = int(self.samples.key_digests[row])
        choices = [
            functools.partial(choose_view, self.views, key, view) for view in range(self.views.num_views)
        ]
        return read_views(self.samples.image(row), self.teacher.preprocess, choices)

    def _texts(self, rows: range) -> Column:
        read = CaptionTokens.of(self.samples, self.teacher.spec, self.teacher.tokenizer)
        where, unique = distinct(self._tokens(read, rows), read.dtype)
        counts = [self.samples.num_captions(row) for row in rows]
        column = Column((len(rows), max(counts), self.teacher.spec.embed_dim), self._storage)
        row_of = np.repeat(np.arange(len(rows)), counts)
        caption_of = np.concatenate([np.arange(count) for count in counts])
        order = np.argsort(
            [-len(tokens) for tokens in unique], kind="stable"
        )  # the longest first: memory is short now
        places = np.argsort(where, kind="stable")  # the captions, by which of the unique ones they are
        starts = np.searchsorted(where[places], np.arange(len(unique) + 1))
        for chosen, embeddings in running_ahead(self._embedded_texts(unique, order), 1):
            these = [places[starts[number] : starts[number + 1]] for number in chosen]
            captions = np.concatenate(these)
            repeated = np.repeat(np.arange(len(chosen)), [len(each) for each in these])
            column.put(row_of[captions], caption_of[captions], embeddings[torch.from_numpy(repeated)])
        return column

    def _embedded_texts(self, unique: list[Ids], order: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        for chosen in batched(order, TEXTS):
            yield (
                chosen,
                self.teacher.embed_tokens(
                    self.teacher.spec.pad([unique[number].tolist() for number in chosen])
                ),
            )

    def _tokens(self, read: CaptionTokens, rows: range) -> Iterator[Ids]:
        """Of every caption of these rows, in their order."""
        for row in rows:
            for caption in range(self.samples.num_captions(row)):
                yield read(row, caption)


def distinct(sequences: Iterable[Ids], dtype: npt.DTypeLike) -> tuple[npt.NDArray[np.int64], list[Ids]]:
    """Which of the distinct ones each of N sequences is, [N], and these. dtype: of all sequences."""
    numbers: dict[bytes, int] = {}
    where = np.fromiter((numbers.setdefault(each.tobytes(), len(numbers)) for each in sequences), np.int64)
    return where, [np.frombuffer(each, dtype) for each in numbers]
