"""A sample, and how its captions and class are written to and read from the small members of a tar."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdx.core.errors import DataError

NO_CAPTION = "no caption (.txt)"
NO_TEXT_IN_CAPTION = "the caption is empty"


@dataclass(frozen=True)
class Sample:
    """image: an encoded file. captions: none where the set was opened without. label: index into the set's classes."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    label: int | None


def key_digest(key: str) -> int:
    """The 64-bit identity of a sample's key, the same on every machine."""
    return int.from_bytes(
        hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


class BadSample(Exception):
    """Why a sample is skipped, in a few words."""


class NoCaption(BadSample):
    """It has none, or an empty one."""


def parse_captions(txt: bytes | None, json_: bytes | None) -> tuple[str, ...]:
    """`captions` of the JSON, or the text as the only one. Raises NoCaption, BadSample."""
    several = None if json_ is None else _json_captions(json_)
    if several is not None:
        return several
    if txt is None:
        raise NoCaption(NO_CAPTION)
    caption = _decode(txt, "the caption")
    if not caption:
        raise NoCaption(NO_TEXT_IN_CAPTION)
    return (caption,)


def parse_class(cls: bytes) -> str:
    """The text of a .cls file. Raises BadSample."""
    return _decode(cls, ".cls")


class LabelFinder:
    """What the texts of labels mean: each an integer, or one of the names.

    names: in label order, maybe one twice; None where labels are bare integers. what: as errors call a text.
    """

    def __init__(self, names: Sequence[str] | None, *, what: str = ".cls") -> None:
        self._what = what
        self._count = None if names is None else len(names)
        self._labels: dict[str, int | None] = {}  # None for a name that several classes have
        for label, name in enumerate(names or ()):
            self._labels[name] = None if name in self._labels else label

    def find(self, text: str) -> int:
        """The class index. Raises BadSample."""
        if text in self._labels:
            if (label := self._labels[text]) is None:
                raise BadSample(
                    f"{self._what} is {text[:40]!r}, which names several classes: write the index"
                )
            return label
        if not is_index(text):
            raise BadSample(f"{self._what} is {text[:40]!r}, neither an integer nor a known class")
        label = int(text)
        if self._count is not None and label >= self._count:
            raise BadSample(f"{self._what} is {label}, there are only {self._count} classes")
        return label


def is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def names_among(texts: Mapping[str, int]) -> list[str] | None:
    """The class names that .cls texts spell, in alphabetical order; None when most of them are integers.

    texts: each with how often it occurs.
    """
    words = [text for text in texts if not is_index(text)]
    return sorted(words) if 2 * sum(texts[text] for text in words) > sum(texts.values()) else None


def encode_members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """(extension, bytes) of the members of a sample. Raises DataError."""
    remedy = "correct the sample, or leave it out"
    parts = sample.key.split("/")
    if parts[-1].startswith(".") or "" in parts or ".." in parts or "." in parts or not _is_name(sample.key):
        raise DataError(
            "a key must be a relative path whose last part does not begin with a dot",
            where=sample.key,
            remedy=remedy,
        )
    if not sample.captions and sample.label is None:
        raise DataError("has neither a caption nor a class", where=sample.key, remedy=remedy)
    # a byte order mark is no text: it is taken away when the caption is read
    if not all(text.removeprefix("\ufeff").strip() for text in sample.captions):
        raise DataError("has an empty caption", where=sample.key, remedy=remedy)
    if sample.label is not None and not is_index(str(sample.label)):
        raise DataError(f"has the label {sample.label}", where=sample.key, remedy="labels count from 0")
    try:
        captions = [text.encode() for text in sample.captions]
    except UnicodeEncodeError:
        raise DataError("has a caption that is not Unicode text", where=sample.key, remedy=remedy) from None
    yield _image_extension(sample), sample.image
    if captions:
        yield "txt", captions[0]
    if sample.label is not None:
        yield "cls", str(sample.label).encode()
    if len(captions) > 1:
        yield "json", json.dumps({"captions": list(sample.captions)}, ensure_ascii=False).encode()


def _is_name(key: str) -> bool:
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def image_extension(image: bytes) -> str | None:
    """That of an encoded image which a shard can hold, by its first bytes; None for any other."""
    if image.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "webp"
    return "avif" if image[4:12] in (b"ftypavif", b"ftypavis") else None


def _image_extension(sample: Sample) -> str:
    extension = image_extension(sample.image)
    if extension is None:
        raise DataError(
            "its image is neither JPEG, PNG, WebP nor AVIF",
            where=sample.key,
            remedy="convert it, or leave the sample out",
        )
    return extension


def _json_captions(content: bytes) -> tuple[str, ...] | None:
    try:
        parsed: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise BadSample("its .json does not parse") from None
    captions = parsed.get("captions") if isinstance(parsed, dict) else None
    if captions is None:
        return None
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise BadSample("`captions` in its .json is not a list of strings")
    stripped = tuple(text.strip() for text in captions)
    if not all(stripped):
        raise BadSample("a caption in its .json is empty")
    try:
        "".join(stripped).encode()
    except UnicodeEncodeError:  # JSON can spell half a character
        raise BadSample("a caption in its .json is not Unicode text") from None
    return stripped


def _decode(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BadSample(f"{what} is not UTF-8") from None
