"""What the index of one shard says, column by column.

A sample is a group of members with one key; all are here, also bad ones, with the reason. Which of them a set takes is
decided when it is opened: whether captions are needed, and which classes there are, is no matter of one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError

from ..sample import NO_CAPTION, NO_TEXT_IN_CAPTION, key_digest
from .table import Array, DamagedTable, encode_table, map_table

FORMAT = 1  # change it with the columns, and with what a sample is read as
CONTEXT = 77  # tokens of a caption that are kept
GOOD, WITHOUT_CAPTION, WITH_EMPTY_CAPTION, FIRST_REASON = 0, 1, 2, 3
NO_CLASS = -1


@dataclass(frozen=True)
class ShardFacts:
    """About a shard as a whole. name, size, modified_ns, digest (sha256): of the tar; at a URL modified_ns is a
    number for its version.

    samples, captions: how many. reasons: why samples are bad; a sample's `reason` counts from FIRST_REASON in it.
    bad, uncaptioned: how many samples have such a reason, and how many are without a caption only. classes: the texts
    of .cls, each with how many samples have it. others: members that are no part of a sample, by kind. tokenizer: its
    digest, or None where there was none when the index was built.
    """

    name: str
    size: int
    modified_ns: int
    digest: str
    samples: int
    captions: int
    bad: int
    uncaptioned: int
    tokenizer: str | None
    reasons: list[str]
    classes: list[tuple[str, int]]
    others: dict[str, int]
    format: int = FORMAT


@dataclass
class IndexedSample:
    """One sample while an index is made. reason: why it is bad for any use. tokens: uint16, of each caption."""

    key: str
    offset: int = 0
    size: int = 0
    width: int = 0
    height: int = 0
    captions: Sequence[str] = ()
    tokens: Sequence[Sequence[int]] = ()
    no_caption: str | None = None
    cls: str | None = None
    reason: str | None = None


class ShardIndex:
    """Mapped columns. n samples, c captions.

    key_digest, prefixed_digest uint64 [n]: of the key, and of the key with its shard's name before it, which it gets
    where an earlier shard has it too. image_offset uint64 [n], image_bytes uint32 [n]; image_size uint32 [n, 2]: width
    and height by the image's header, 0 where it has none. reason uint16 [n]. class_number int32 [n], or None without
    classes.
    """

    def __init__(self, facts: ShardFacts, arrays: dict[str, Array]) -> None:
        self.facts = facts
        self.key_digest = arrays["key_digest"]
        self.prefixed_digest = arrays["prefixed_digest"]
        self.image_offset = arrays["image_offset"]
        self.image_bytes = arrays["image_bytes"]
        self.image_size = arrays["image_size"]
        self.reason = arrays["reason"]
        self.class_number = arrays.get("class_number")
        self._keys, self._key_ends = arrays["key"], arrays["key_end"]
        self._first_caption = arrays["first_caption"]  # [n + 1]
        self._captions, self._caption_ends = arrays["caption"], arrays["caption_end"]  # [c + 1]
        self._tokens, self._token_ends = arrays.get("token"), arrays.get("token_end")

    def key(self, sample: int) -> str:
        start, end = int(self._key_ends[sample]), int(self._key_ends[sample + 1])
        return self._text(self._keys[start:end])

    def num_captions(self, sample: int) -> int:
        return int(self._first_caption[sample + 1]) - int(self._first_caption[sample])

    def caption_counts(self) -> npt.NDArray[np.int32]:
        """[n]"""
        return np.diff(self._first_caption.astype(np.int64)).astype(np.int32)

    def captions(self, sample: int) -> tuple[str, ...]:
        first, last = int(self._first_caption[sample]), int(self._first_caption[sample + 1])
        return tuple(self._caption(number) for number in range(first, last))

    def caption(self, sample: int, number: int) -> str:
        return self._caption(int(self._first_caption[sample]) + number)

    def tokens(self, sample: int, number: int) -> npt.NDArray[np.uint16] | None:
        """Those of a caption, cut to CONTEXT; None where the index has none."""
        if self._tokens is None or self._token_ends is None:
            return None
        place = int(self._first_caption[sample]) + number
        return self._tokens[int(self._token_ends[place]) : int(self._token_ends[place + 1])]

    def why_bad(self, sample: int) -> str:
        reason = int(self.reason[sample])
        if reason < FIRST_REASON:
            return ("", NO_CAPTION, NO_TEXT_IN_CAPTION)[reason]
        return self.facts.reasons[reason - FIRST_REASON]

    def _caption(self, place: int) -> str:
        start, end = int(self._caption_ends[place]), int(self._caption_ends[place + 1])
        return self._text(self._captions[start:end])

    def _text(self, utf8: Array) -> str:
        """Raises DataError. Opening checks the header alone: that all is as it was written, `kdx data verify` does."""
        try:
            return utf8.tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DataError(
                "the index of this shard is damaged",
                where=self.facts.name,
                remedy="kdx data verify names all such files; remove them, so that they are made anew",
            ) from None


@dataclass
class ShardIndexWriter:
    """Collects the samples of one shard. tokenizer: None: without tokens."""

    name: str
    size: int
    modified_ns: int
    digest: str
    tokenizer: str | None
    samples: list[IndexedSample] = field(default_factory=list)

    def encode(self, others: dict[str, int]) -> bytes:
        """The bytes of the index file."""
        samples = self.samples
        captions = [text.encode("utf-8", "surrogatepass") for each in samples for text in each.captions]
        keys = [each.key.encode() for each in samples]
        stem = Path(self.name).stem
        reasons = _numbered(each.reason for each in samples)
        classes = _numbered(each.cls for each in samples)
        arrays: dict[str, Array] = {
            "key_digest": np.array([key_digest(each.key) for each in samples], dtype=np.uint64),
            "prefixed_digest": np.array([key_digest(f"{stem}/{each.key}") for each in samples], np.uint64),
            "image_offset": np.array([each.offset for each in samples], dtype=np.uint64),
            "image_bytes": np.array([each.size for each in samples], dtype=np.uint32),
            "image_size": np.array([(each.width, each.height) for each in samples], np.uint32).reshape(-1, 2),
            "reason": np.array([_reason(each, reasons) for each in samples], dtype=np.uint16),
            "first_caption": _ends([len(each.captions) for each in samples]),
            "key": _joined(keys),
            "key_end": _ends([len(key) for key in keys]),
            "caption": _joined(captions),
            "caption_end": _ends([len(caption) for caption in captions]),
        }
        if classes:
            numbers = [NO_CLASS if each.cls is None else classes[each.cls] for each in samples]
            arrays["class_number"] = np.array(numbers, dtype=np.int32)
        if self.tokenizer is not None:
            tokens = [own for each in samples for own in each.tokens]
            flat = np.fromiter((token for own in tokens for token in own), np.uint16)
            arrays |= {"token": flat, "token_end": _ends([len(own) for own in tokens])}
        counts = np.bincount(
            arrays.get("class_number", np.zeros(0, np.int32)) + 1, minlength=len(classes) + 1
        )
        facts = ShardFacts(
            name=self.name,
            size=self.size,
            modified_ns=self.modified_ns,
            digest=self.digest,
            samples=len(samples),
            captions=len(captions),
            bad=int((arrays["reason"] >= FIRST_REASON).sum()),
            uncaptioned=int(np.isin(arrays["reason"], (WITHOUT_CAPTION, WITH_EMPTY_CAPTION)).sum()),
            tokenizer=self.tokenizer,
            reasons=list(reasons),
            classes=[(text, int(counts[number + 1])) for text, number in classes.items()],
            others=others,
        )
        return encode_table(arrays, asdict(facts))


def read_shard_index(path: Path) -> ShardIndex:
    """Raises DamagedTable for what is no index of this format, OSError where there is none."""
    table = map_table(path)
    about = cast(dict[str, Any], table.about)
    if about.get("format") != FORMAT:
        raise DamagedTable("has another format")
    try:
        return ShardIndex(ShardFacts(**about), table.arrays)
    except (TypeError, KeyError):
        raise DamagedTable("is no index of a shard") from None


def is_undamaged(path: Path) -> bool:
    """Reads all of an index file. Raises DamagedTable and OSError as `read_shard_index`."""
    return map_table(path).is_undamaged()


def _numbered(texts: Iterable[str | None]) -> dict[str, int]:
    """Each different text with its place, in the order of first occurrence."""
    return {text: number for number, text in enumerate(dict.fromkeys(t for t in texts if t is not None))}


def _reason(sample: IndexedSample, reasons: dict[str, int]) -> int:
    if sample.reason is not None:
        # beyond what 16 bits can number, a shard that is all bad in different ways says some wrong reason
        return min(FIRST_REASON + reasons[sample.reason], 2**16 - 1)
    if sample.no_caption is None:
        return GOOD
    return WITHOUT_CAPTION if sample.no_caption == NO_CAPTION else WITH_EMPTY_CAPTION


def _joined(parts: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(parts), dtype=np.uint8)


def _ends(lengths: Sequence[int]) -> npt.NDArray[Any]:
    """[len + 1], where each part ends, and 0 before them: uint32 where that holds it."""
    ends = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.uint64), dtype=np.uint64)])
    return ends.astype(np.uint32 if ends[-1] < 2**32 else np.uint64)
