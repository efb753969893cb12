"""The text tower on texts of different lengths: sorted by length, in blocks, each as long as its longest text.

A tower that is causal and pooled at end-of-text sees no padding, which only costs. One long caption would make all
texts of a batch as long, and of CC12M's some fill the context. Which pairs make a batch stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdx.core.encoder import TextPadding
from kdx.models.clip import ClipModel

from .devices import Device

MAX_BLOCKS = 8


@dataclass(frozen=True)
class Texts:
    """Tokens int [n, L] of each block, on the device. order: int [b], where each row of the batch stands in them."""

    blocks: tuple[Tensor, ...]
    order: Tensor | None = None

    @classmethod
    def of(
        cls,
        tokens: npt.NDArray[Any],
        device: Device,
        width: int,
        count: int | None = None,
        allowed: Sequence[int] = (),
        *,
        padding: TextPadding = "longest",
        pad_id: int = 0,
    ) -> Texts:
        """tokens: int [b, L], padded with pad_id, with which no text ends. width: the text tower's.

        count: of blocks; what saves most if not given. allowed: the lengths that a block may have, the longest as long
        as any text; every length if there is none. padding: of the tower; "full" leaves the tokens as they are.
        """
        if padding == "full":
            return cls((device.copied(tokens.astype(np.int64)),))
        lengths = text_lengths(tokens, pad_id)
        if allowed:
            lengths = np.array(allowed)[np.searchsorted(allowed, lengths)]
            missing = max(0, int(lengths.max()) - tokens.shape[1])
            tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=pad_id)
        rows = split_rows(lengths, device.block_cost(width), [count] if count else range(1, MAX_BLOCKS + 1))
        if len(rows) == 1:
            return cls((device.copied(tokens[:, : lengths.max()].astype(np.int64)),))
        blocks = [tokens[each, : lengths[each].max()].astype(np.int64) for each in rows]
        order = np.argsort(np.concatenate(rows), kind="stable")
        return cls(tuple(map(device.copied, blocks)), device.copied(order))

    def encode(self, model: ClipModel) -> Tensor:
        """[b, D], in the order of the batch."""
        embeddings = [model.encode_text(block) for block in self.blocks]
        return embeddings[0] if self.order is None else torch.cat(embeddings)[self.order]


def text_lengths(tokens: npt.NDArray[Any], pad_id: int = 0) -> npt.NDArray[np.int64]:
    """int [b]: up to the last token that is not pad_id."""
    return tokens.shape[1] - np.argmax(tokens[:, ::-1] != pad_id, axis=1)


def split_rows(
    lengths: npt.NDArray[np.int64], block_cost: float, counts: Iterable[int] = range(1, MAX_BLOCKS + 1)
) -> list[npt.NDArray[np.int64]]:
    """The rows of each block, in order of length and equally many in each.

    As many blocks, among `counts`, as make padded tokens + block_cost · blocks the least; the first of equals.
    """
    by_length = np.argsort(lengths, kind="stable")
    splits = [np.array_split(by_length, min(count, len(lengths))) for count in counts]
    costs = [
        sum(len(rows) * int(lengths[rows].max()) for rows in split) + block_cost * len(split)
        for split in splits
    ]
    return splits[int(np.argmin(costs))]
