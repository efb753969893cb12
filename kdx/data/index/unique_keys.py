"""Keys that an earlier shard has too: each gets its shard's name before it, as often as it takes.

img2dataset numbers the images of each set from 0, so of two sets all keys may be the same. Keys are compared by their
digests, which the index has, also of the key with the name before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..sample import key_digest
from .opening import IndexedShard


@dataclass(frozen=True)
class Renamed:
    """Samples that get another key, by their numbers over all shards, in ascending order. int64, uint8, uint64 [m].

    prefixes: how many times the shard's name stands before the key. digests: of the new keys.
    """

    samples: npt.NDArray[np.int64]
    prefixes: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint64]

    def key(self, sample: int, key: str, shard_name: str) -> str:
        """The key that a sample has in the set."""
        if len(self.samples) == 0:
            return key
        place = int(np.searchsorted(self.samples, sample))
        if place == len(self.samples) or self.samples[place] != sample:
            return key
        return _prefixed(key, shard_name, int(self.prefixes[place]))

    def apply(self, digests: npt.NDArray[np.uint64], first: int) -> npt.NDArray[np.uint64]:
        """The digests of the keys of one shard, whose samples count from `first`, as they are in the set."""
        start, stop = np.searchsorted(self.samples, (first, first + len(digests)))
        if start == stop:
            return digests
        renamed = digests.copy()
        renamed[self.samples[start:stop] - first] = self.digests[start:stop]
        return renamed


NOTHING_RENAMED = Renamed(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint64))


def find_renamed(shards: Sequence[IndexedShard]) -> Renamed:
    """Which samples do not keep their keys."""
    digests = np.concatenate([shard.key_digests for shard in shards])
    ordered = np.sort(digests)
    if not (ordered[1:] == ordered[:-1]).any():
        return NOTHING_RENAMED
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    again = np.sort(order[1:][ordered[1:] == ordered[:-1]])  # all but the first sample with a key
    prefixed = np.concatenate([shard.columns().prefixed_digest for shard in shards])[again]
    if len(np.unique(prefixed)) == len(prefixed) and not _contained(prefixed, ordered).any():
        return Renamed(again, np.ones(len(again), dtype=np.uint8), prefixed)
    return _rename_one_by_one(shards, again, ordered, order)


def _contained(values: npt.NDArray[np.uint64], ordered: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[places] == values


def _rename_one_by_one(
    shards: Sequence[IndexedShard],
    again: npt.NDArray[np.int64],
    ordered: npt.NDArray[np.uint64],
    order: npt.NDArray[np.int64],
) -> Renamed:
    """Where a new key is one that another sample has, or gets.

    ordered, order: the digests in ascending order and whose they are, of equal ones the earlier sample first.
    """
    starts = np.cumsum([0, *(shard.facts.samples for shard in shards)])
    waiting: list[int] = again.tolist()  # sorted, so it is a heap
    prefixes: dict[int, int] = {}
    given: dict[int, int] = {}  # new digest → sample
    while waiting:
        sample = heapq.heappop(waiting)
        number = int(np.searchsorted(starts, sample, side="right")) - 1
        shard = shards[number]
        key, count = shard.columns().key(sample - int(starts[number])), 0
        while True:
            count += 1
            digest = key_digest(_prefixed(key, shard.facts.name, count))
            place = int(np.searchsorted(ordered, np.uint64(digest)))
            owner = int(order[place]) if place < len(ordered) and int(ordered[place]) == digest else None
            if digest not in given and (owner is None or owner > sample):
                break
        prefixes[sample], given[digest] = count, sample
        if owner is not None:  # comes later, and finds its key taken
            heapq.heappush(waiting, owner)
    samples = sorted(prefixes)
    new = {sample: digest for digest, sample in given.items()}
    return Renamed(
        np.array(samples, dtype=np.int64),
        np.array([prefixes[sample] for sample in samples], dtype=np.uint8),
        np.array([new[sample] for sample in samples], dtype=np.uint64),
    )


def _prefixed(key: str, shard_name: str, count: int) -> str:
    return f"{Path(shard_name).stem}/" * count + key
