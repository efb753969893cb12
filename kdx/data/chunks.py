"""A chunk: a few pairs that are decoded together, straight into memory that is there already.

A batch is made of chunks, so that all workers share one batch, and what is read ahead is counted in batches and not in
workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .caption_tokens import CaptionTokens, Ids
from .sample import key_digest
from .shared_array import SharedArray
from .view_reader import Undecodable, ViewReader
from .views import philox

CHUNK = 32  # pairs


@dataclass(frozen=True)
class Request:
    """rows: int64 [≤ CHUNK]. slot: which part of the memory is filled. epoch: decides on the captions."""

    slot: int
    rows: npt.NDArray[np.int64]
    view: int
    epoch: int


@dataclass(frozen=True)
class Filled:
    """rows, captions: int64 [n], the pairs whose images decode, in the order asked for: the first n of the slot.

    length: the tokens of the longest caption, or the context where all captions are padded to it. cut: how many
    captions were longer than the context. bad: row → why its image does not decode.
    """

    slot: int
    rows: npt.NDArray[np.int64]
    captions: npt.NDArray[np.int64]
    length: int
    cut: int
    bad: dict[int, str]


class Chunks:
    """Fills slots with pairs; in any thread, and in other processes where the memory is shared.

    pixels: uint8 [slots, CHUNK, S, S, 3]; tokens: uint16 or uint32 [slots, CHUNK, context_length], padded.
    """

    def __init__(
        self, reader: ViewReader, captions: CaptionTokens, seed: int, slots: int, *, shared: bool
    ) -> None:
        self._reader, self._samples, self._seed = reader, reader.samples, seed
        self._captions = captions
        size = reader.preprocess.image_size
        make: Any = SharedArray if shared else _PrivateArray
        self._pixels = make((slots, CHUNK, size, size, 3), np.uint8)
        self._tokens = make((slots, CHUNK, captions.context_length), captions.dtype)
        self._remembered: dict[tuple[int, int], tuple[Ids, bool]] = {}  # tokens, where views are kept too

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        return self._pixels.array

    @property
    def tokens(self) -> Ids:
        return self._tokens.array

    @property
    def pad_id(self) -> int:
        return self._captions.pad_id

    def fill(self, request: Request) -> Filled:
        """Raises DataError if a shard has changed."""
        pixels, tokens = self.pixels[request.slot], self.tokens[request.slot]
        rows: list[int] = []
        captions: list[int] = []
        bad: dict[int, str] = {}
        num_cut = 0
        longest = self._captions.context_length if self._captions.padding == "full" else 0
        asked: list[int] = request.rows.tolist()
        for row, decoded in zip(asked, self._reader.decode(asked, request.view), strict=True):
            if isinstance(decoded, Undecodable):
                bad[row] = decoded.why
                continue
            n = len(rows)
            pixels[n] = decoded
            caption = self._caption(row, request.epoch)
            ids, cut = self._read(row, caption)
            num_cut += cut
            tokens[n, : len(ids)] = ids
            tokens[n, len(ids) :] = self.pad_id
            longest = max(longest, len(ids))
            rows.append(row)
            captions.append(caption)
        return Filled(
            request.slot,
            np.array(rows, dtype=np.int64),
            np.array(captions, dtype=np.int64),
            longest,
            num_cut,
            bad,
        )

    def _read(self, row: int, caption: int) -> tuple[Ids, bool]:
        read = self._remembered.get((row, caption))
        if read is None:
            read = self._captions.read(row, caption)
            if self._reader.keeps:
                self._remembered[row, caption] = read
        return read

    def _caption(self, row: int, epoch: int) -> int:
        choices = self._samples.num_captions(row)
        if choices == 1:
            return 0
        random = philox(self._seed, key_digest(self._samples.keys[row]), epoch)
        return int(random.integers(choices))


class _PrivateArray:
    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.array: npt.NDArray[Any] = np.empty(shape, dtype)
