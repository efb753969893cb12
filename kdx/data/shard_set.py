"""The samples of a split, read through the indices of its shards: nothing of them is in memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kdx.core.digests import value_digest
from kdx.core.progress import Stages, silent_stages
from kdx.core.urls import file_name
from kdx.models.clip_vocabulary import clip_tokenizer

from .image_set import captions_an_image
from .index.opening import mapped_index
from .index.shard_index import CONTEXT, FORMAT, NO_CLASS, ShardIndex
from .index.unique_keys import Renamed
from .remote.tars import fetch, is_kept, read_all
from .sample import Sample
from .set_texts import read_templates
from .tar_index import TarFile


@dataclass(frozen=True)
class Shard:
    """rows: which samples of the set lie in it, never none. digest: sha256 (hex) of the file.

    index: where its index lies. good: int32, which of its samples are rows; None: all. first: the number of its first
    sample among all of the shards, bad ones counted too. labels: int32, of each of its class texts.
    """

    file: TarFile
    rows: range
    digest: str
    index: Path
    good: npt.NDArray[np.int32] | None
    first: int
    labels: npt.NDArray[np.int32]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def name(self) -> str:
        return file_name(self.path)

    def columns(self) -> ShardIndex:
        return mapped_index(self.index, self.digest)

    def sample(self, row: int) -> int:
        """Which of the shard's samples a row of the set is."""
        within = row - self.rows.start
        return within if self.good is None else int(self.good[within])

    def good_of(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column of the index, for the rows of this shard."""
        return column if self.good is None else column[self.good]


class ShardSet(Sequence[Sample]):
    """The good samples of one split in the order of shards and members; made by `open_split`.

    It is an ImageSet. Images and texts are read when asked for, by any number of threads and processes; it is small
    when pickled. keys: unique; one that an earlier shard has too is preceded by its shard's name. skipped: (key,
    reason) of the bad samples. others: how many members of each kind are no part of any sample. classes: what labels
    mean, None if the set does not say.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shards: tuple[Shard, ...],
        renamed: Renamed,
        skipped: list[tuple[str, str]],
        others: dict[str, int],
        classes: list[str] | None,
    ) -> None:
        self.folder = folder
        self.split = split
        self.shards = shards
        self.skipped = skipped
        self.others = others
        self.classes = classes
        self._renamed = renamed
        self._starts = [shard.rows.start for shard in shards]
        self._length = shards[-1].rows.stop if shards else 0

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Raises DataError if the shard has changed since it was opened."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return Sample(self.keys[index], self.image(index), self.captions(index), self.label(index))

    @property
    def name(self) -> str:
        return f"shards ({self.split})"

    @property
    def place(self) -> Path:
        return self.folder

    @property
    def protocol(self) -> str:
        return captions_an_image(self.caption_counts)

    @property
    def templates(self) -> list[str] | None:
        """Raises DataError if templates.txt is malformed."""
        return read_templates(self.folder)

    @property
    def keys(self) -> Keys:
        return Keys(self)

    def key(self, row: int) -> str:
        shard, columns, sample = self._find(row)
        return self._renamed.key(shard.first + sample, columns.key(sample), shard.name)

    def captions(self, row: int) -> tuple[str, ...]:
        _, columns, sample = self._find(row)
        return columns.captions(sample)

    def num_captions(self, row: int) -> int:
        _, columns, sample = self._find(row)
        return columns.num_captions(sample)

    def tokens(self, row: int, caption: int, context_length: int) -> npt.NDArray[np.uint16]:
        """CLIP's tokens of a caption, cut to `context_length` as Tokenizer.encode cuts; not padded."""
        _, columns, sample = self._find(row)
        if not 0 <= caption < columns.num_captions(sample):
            raise IndexError(f"row {row} has no caption {caption}")
        tokenizer = clip_tokenizer()
        kept = columns.tokens(sample, caption) if columns.facts.tokenizer == tokenizer.digest else None
        if kept is None or (
            context_length > CONTEXT and len(kept) == CONTEXT
        ):  # maybe longer than what was kept
            return np.array(tokenizer.encode(columns.caption(sample, caption), context_length), np.uint16)
        if len(kept) <= context_length:
            return kept.copy()  # does not keep the file open
        return np.append(kept[: context_length - 1], kept[-1:])  # the end of text stays

    def label(self, row: int) -> int | None:
        shard, columns, sample = self._find(row)
        if columns.class_number is None or (number := int(columns.class_number[sample])) == NO_CLASS:
            return None
        return int(shard.labels[number])

    def image(self, row: int) -> bytes:
        """Raises DataError if the shard has changed since it was opened."""
        file, offset, size = self._place(row)
        return file.read(offset, size)

    def images(self, rows: Iterable[int]) -> Iterator[bytes]:
        """`image` of each, several asked for at a time where each is a request."""
        return read_all([self._place(row) for row in rows])

    def fetch(self, stages: Stages = silent_stages, share: tuple[int, int] = (0, 1)) -> None:
        """Brings what is at URLs and fits the cache of shards there, which else happens at the first images.

        stages: shows "fetching", if there is something of this kind. share: which of how many processes this is:
        each begins elsewhere.
        """
        tars = [shard.file for shard in self.shards]
        if any(is_kept(tar) for tar in tars):
            first = share[0] * len(tars) // share[1]
            with stages("fetching") as progress:
                fetch([*tars[first:], *tars[:first]], progress)

    def image_size(self, row: int) -> tuple[int, int]:
        """Width and height by the image's header, 0 where it has none."""
        _, columns, sample = self._find(row)
        width, height = columns.image_size[sample].tolist()
        return width, height

    @property
    def key_digests(self) -> npt.NDArray[np.uint64]:
        """[N], the key_digest of every key."""
        return self._key_digests

    @cached_property
    def _key_digests(self) -> npt.NDArray[np.uint64]:
        return self._column(
            lambda shard, columns: self._renamed.apply(columns.key_digest, shard.first), np.uint64
        )

    @property
    def caption_counts(self) -> npt.NDArray[np.int32]:
        """[N], how many captions each sample has."""
        return self._column(lambda _, columns: columns.caption_counts(), np.int32)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """[N], the label of each sample, -1 where it has none."""
        return self._column(_labels, np.int32)

    @cached_property
    def pairs_digest(self) -> str:
        """sha256 (hex) of the images with their keys and captions, row by row.

        Which samples are good, and so what row a sample has, is decided outside of the shards too (`classes.txt`).
        """
        shards = [[shard.name, shard.digest, len(shard.rows)] for shard in self.shards]
        return value_digest([FORMAT, shards, _digest(self.key_digests)])

    @property
    def digest(self) -> str:
        """sha256 (hex) of all that a set says: the pairs, their labels and what the labels mean."""
        return value_digest([self.pairs_digest, _digest(self.labels), self.classes])

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_key_digests", None)  # eight bytes a row, and quickly read again
        return state

    def _find(self, row: int) -> tuple[Shard, ShardIndex, int]:
        """The shard of a row, its columns, and which of its samples that is."""
        if not -self._length <= row < self._length:
            raise IndexError(f"there is no row {row} of {self._length}")
        row = int(row) % self._length
        shard = self.shards[bisect_right(self._starts, row) - 1]
        return shard, shard.columns(), shard.sample(row)

    def _place(self, row: int) -> tuple[TarFile, int, int]:
        """Of its image: the file, and offset and size in it."""
        shard, columns, sample = self._find(row)
        return shard.file, int(columns.image_offset[sample]), int(columns.image_bytes[sample])

    def _column(
        self, read: Callable[[Shard, ShardIndex], npt.NDArray[Any]], dtype: type[np.generic]
    ) -> npt.NDArray[Any]:
        column = np.empty(self._length, dtype=dtype)
        for shard in self.shards:
            column[shard.rows.start : shard.rows.stop] = shard.good_of(read(shard, shard.columns()))
        return column


class Keys(Sequence[str]):
    """The keys of a set, each read when it is asked for."""

    def __init__(self, samples: ShardSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._samples.key(row) for row in range(*index.indices(len(self)))]
        return self._samples.key(index)

    def __iter__(self) -> Iterator[str]:
        return map(self._samples.key, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self)) if len(self) <= 20 else f"<{len(self)} keys>"


def _labels(shard: Shard, columns: ShardIndex) -> npt.NDArray[np.int32]:
    if columns.class_number is None:
        return np.full(columns.facts.samples, NO_CLASS, dtype=np.int32)
    return np.append(shard.labels, np.int32(NO_CLASS))[
        columns.class_number
    ]  # NO_CLASS is the last one's place


def _digest(column: npt.NDArray[Any]) -> str:
    return hashlib.sha256(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()
