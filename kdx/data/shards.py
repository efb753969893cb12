"""Image–text sets as WebDataset tar shards: writing them, and random access to their samples.

A set is a folder with train-*.tar (or 00000.tar …), val-*.tar (or test-*.tar), and where it is labelled classes.txt.
A sample is KEY.jpg (jpeg, jfif, png, webp, avif), KEY.txt, where labelled KEY.cls (an integer or a class name), and
with several captions KEY.json = {"captions": [...]}, whose first one is KEY.txt. For evaluation a class is enough.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kdx.core.digests import file_digest, value_digest
from kdx.core.errors import DataError, UsageError
from kdx.core.requests import check_templates
from kdx.core.workspace import locked, move_all, workspace
from kdx.models.clip_vocabulary import clip_tokenizer

from .drafts import IMAGE_EXTENSIONS, MAX_IMAGE, MAX_TEXT, Draft, Drafts, group_members, read_drafts
from .image_set import captions_an_image
from .sample import (
    NO_CAPTION,
    BadSample,
    Sample,
    encode_members,
    find_label,
    is_index,
    key_digest,
    names_among,
    parse_class,
)
from .tar_index import Member, TarFile
from .tar_writer import TarWriter
from .unpacked import convert_command, quoted

__all__ = [
    "Sample",
    "Shard",
    "ShardSet",
    "open_split",
    "read_classes",
    "read_templates",
    "shard_paths",
    "write_shards",
]

# split → how its shards begin, the first found counts: who has test shards alone scores on them
SPLITS = {"train": ("train",), "val": ("val", "test"), "test": ("test",)}
REASONS_SHOWN = 3


@dataclass(frozen=True)
class Shard:
    """rows: which samples of the set lie in it, never none."""

    file: TarFile
    rows: range

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the file."""
        return file_digest(self.path)


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    file: TarFile
    image: Member
    captions: tuple[str, ...]
    label: int | None


class ShardSet(Sequence[Sample]):
    """The good samples of one split in the order of shards and members; made by `open_split`.

    It is an ImageSet. Images are read when asked for, by any number of threads. keys: unique; one that an earlier shard
    has too is preceded by its shard's name. skipped: (key, reason) of the bad samples. others: how many members of each
    kind are no part of any sample. classes: what labels mean, None if the set does not say.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shards: tuple[Shard, ...],
        entries: list[_Entry],
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
        self._entries = entries
        self.keys = [entry.key for entry in entries]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Raises DataError if the shard has changed since it was opened."""
        if isinstance(index, slice):
            return [self._read(entry) for entry in self._entries[index]]
        return self._read(self._entries[index])

    @property
    def name(self) -> str:
        return f"shards ({self.split})"

    @property
    def place(self) -> Path:
        return self.folder

    @property
    def protocol(self) -> str:
        return captions_an_image([entry.captions for entry in self._entries])

    @property
    def templates(self) -> list[str] | None:
        """Raises DataError if templates.txt is malformed."""
        return read_templates(self.folder)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._entries[index].captions

    @cached_property
    def key_digests(self) -> npt.NDArray[np.uint64]:
        """[N], the key_digest of every key."""
        return np.fromiter(map(key_digest, self.keys), dtype=np.uint64, count=len(self))

    @property
    def caption_counts(self) -> npt.NDArray[np.int32]:
        """[N], how many captions each sample has."""
        counts = (len(entry.captions) for entry in self._entries)
        return np.fromiter(counts, dtype=np.int32, count=len(self))

    def num_captions(self, index: int) -> int:
        return len(self._entries[index].captions)

    def tokens(self, index: int, caption: int, context_length: int) -> npt.NDArray[np.uint16]:
        """CLIP's tokens of a caption, cut to `context_length` as Tokenizer.encode cuts; not padded."""
        text = self._entries[index].captions[caption]
        return np.array(clip_tokenizer().encode(text, context_length), dtype=np.uint16)

    def label(self, index: int) -> int | None:
        return self._entries[index].label

    def image(self, index: int) -> bytes:
        """Raises DataError if the shard has changed since it was opened."""
        return self[index].image

    @cached_property
    def pairs_digest(self) -> str:
        """sha256 (hex) of the images with their keys and captions, row by row; reads all shards once.

        Which samples are good, and so what row a sample has, is decided outside of the shards too (`classes.txt`).
        """
        shards = [[s.name, s.file.size, s.digest, len(s.rows)] for s in self.shards]
        return value_digest([shards, _rows_digest([entry.key, entry.captions] for entry in self._entries)])

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of all that a set says: the pairs, their labels and what the labels mean."""
        labels = _rows_digest(entry.label for entry in self._entries)
        return value_digest([self.pairs_digest, labels, self.classes])

    def _read(self, entry: _Entry) -> Sample:
        image = entry.file.read(entry.image.offset, entry.image.size)
        return Sample(entry.key, image, entry.captions, entry.label)


def _rows_digest(rows: Iterable[Any]) -> str:
    """Of JSON-serialisable values, one at a time: a set may have more rows than should be spelled out at once."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


# Reading


def open_split(
    folder: Path, split: str, *, need_captions: bool = True, min_good_share: float = 0.9
) -> ShardSet:
    """Opens the shards of a split: "train", "test", or "val", which are test-*.tar where there are no val-*.tar.

    Bad samples are skipped and named in `ShardSet.skipped`; need_captions: whether one without a caption is bad.
    Raises DataError when there are no shards, when one is no whole tar, or when less than `min_good_share` of the
    samples are good.
    """
    paths = shard_paths(folder, split)
    if not paths:
        raise DataError(f"there are no {split} shards", where=folder, remedy=_names_to_give(folder, split))
    drafts = read_drafts(paths, need_captions=need_captions)
    names = _class_names(folder, [draft.cls for draft in drafts.good if draft.cls is not None])
    entries, shards = _number(drafts.good, names, drafts.skipped)
    _check_share(folder, split, len(entries), drafts, min_good_share)
    return ShardSet(folder, split, shards, entries, drafts.skipped, dict(drafts.others.most_common()), names)


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split in their order; none if there are none. Raises UsageError for an unknown split."""
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", remedy=f"use {' or '.join(SPLITS)}")
    for prefix in SPLITS[split]:
        paths = sorted(folder.glob(f"{prefix}-*.tar"))
        if paths:
            return paths
    return numbered_shards(folder) if split == "train" else []


def splits_there(folder: Path) -> dict[str, list[Path]]:
    """The shards of each split, every shard once: test-*.tar without val-*.tar are those of "val"."""
    paths = {split: shard_paths(folder, split) for split in SPLITS}
    return {
        split: found for split, found in paths.items() if found and (split != "test" or found != paths["val"])
    }


def numbered_shards(folder: Path) -> list[Path]:
    """Those that have no split in their names, as img2dataset writes them (00000.tar): they are train shards."""
    return sorted(
        (path for path in folder.glob("[0-9]*.tar") if path.stem.isdecimal()),
        key=lambda path: (int(path.stem), path.stem),
    )


def read_classes(folder: Path) -> list[str] | None:
    """Class names in label order: the lines of classes.txt, or else the distinct .cls texts of all splits.

    Two classes may have the same name, as ImageNet's "missile" and "sunglasses" have; the published scores count so.
    None if labels are bare integers or there are none. Raises DataError if classes.txt is malformed.
    """
    named = _read_lines(folder / "classes.txt")
    return names_among(_all_classes(folder)) if named is None else named


def read_templates(folder: Path) -> list[str] | None:
    """Zero-shot prompts from templates.txt, one a line, each with {} for the class; None without the file.

    Raises DataError if it is malformed.
    """
    path = folder / "templates.txt"
    templates = _read_lines(path)
    try:
        return None if templates is None else check_templates(templates)
    except UsageError as error:
        raise DataError(error.what, where=path, remedy=error.remedy) from None


def _class_names(folder: Path, texts: list[str]) -> list[str] | None:
    """Walks the other splits only when names occur: labels must mean the same in all of them."""
    if (folder / "classes.txt").exists() or not all(map(is_index, texts)):
        return read_classes(folder)
    return None


def _all_classes(folder: Path) -> Iterator[str]:
    for paths in splits_there(folder).values():
        for path in paths:
            file = TarFile.at(path)
            groups, _ = group_members(file)
            for extension, member in itertools.chain.from_iterable(groups.values()):
                if extension == "cls" and member.size <= MAX_TEXT:
                    try:
                        yield parse_class(file.read(member.offset, member.size))
                    except BadSample:
                        continue  # open_split names it


def _number(
    drafts: list[Draft], names: list[str] | None, skipped: list[tuple[str, str]]
) -> tuple[list[_Entry], tuple[Shard, ...]]:
    """Gives labels and rows; samples with an unknown class join `skipped`."""
    entries: list[_Entry] = []
    shards: list[Shard] = []
    for file, group in itertools.groupby(drafts, key=lambda draft: draft.file):
        start = len(entries)
        for draft in group:
            try:
                label = None if draft.cls is None else find_label(draft.cls, names)
            except BadSample as reason:
                skipped.append((draft.key, str(reason)))
                continue
            entries.append(_Entry(draft.key, file, draft.image, draft.captions, label))
        if len(entries) > start:
            shards.append(Shard(file, range(start, len(entries))))
    return entries, tuple(shards)


def _check_share(folder: Path, split: str, good: int, drafts: Drafts, min_good_share: float) -> None:
    skipped = drafts.skipped
    total = good + len(skipped)
    if total == 0:
        others = ", ".join(f"{count} × {kind}" for kind, count in drafts.others.most_common(REASONS_SHOWN))
        raise DataError(
            f"the {split} shards hold no samples{others and f', but {others}'}",
            where=folder,
            remedy="make or copy them again; docs/formats.md says what a sample is",
        )
    if all(reason == NO_CAPTION for _, reason in skipped) and skipped and good == 0:
        raise DataError(
            f"none of the {total} {split} samples has a caption, and these are needed here",
            where=folder,
            remedy="add a KEY.txt to each; without captions a set serves for evaluation, by its classes",
        )
    if good < min_good_share * total:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in skipped[:REASONS_SHOWN])
        more = "; …" if len(skipped) > REASONS_SHOWN else ""
        raise DataError(
            f"only {good} of {total} {split} samples are good ({reasons}{more})",
            where=folder,
            remedy="repair or remove the bad samples; `kdx data info` lists them",
        )


def _names_to_give(folder: Path, split: str) -> str:
    if (command := convert_command(folder)) is not None and not any(folder.glob("*.tar*")):
        return f"pack the pictures into shards first: {command}"
    if not folder.is_dir():
        return "check the path: there is no such folder"
    if split == "val" and shard_paths(folder, "train"):
        return f"hold some of the images out: kdx data convert {quoted(folder)} --val 0.1 --out shards"
    wanted = " or ".join(f"{prefix}-00000.tar, {prefix}-00001.tar …" for prefix in SPLITS[split])
    packed = next(iter(sorted(folder.glob("*.tar.*"))), None)
    return f"name the shards {wanted}" + (f", and unpack {packed.name} and its like" if packed else "")


def _read_lines(path: Path) -> list[str] | None:
    """The lines of a text file without surrounding spaces; None without the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=path, remedy="save it as UTF-8 text") from None
    lines = [line.strip() for line in text.strip().split("\n")]
    if not all(lines):
        raise DataError("has an empty line", where=path, remedy="one entry a line")
    return lines


# Writing


def write_shards(
    folder: Path, split: str, samples: Iterable[Sample], *, samples_per_shard: int = 2000
) -> int:
    """Writes the shards of a split, `split-00000.tar` and on, and returns the number of samples.

    Equal samples give equal bytes. Shards get their names when all are whole; on an error none is left.
    Raises UsageError if the split has shards there, DataError for a sample that could not be read back, SetupError
    where nothing can be written.
    """
    _check_no_shards(folder, split)
    count = 0
    with workspace(folder / f"{split}-shards") as new:
        new.mkdir()
        for number, group in enumerate(_groups(samples, samples_per_shard)):
            count += _write_tar(new / f"{split}-{number:05d}.tar", group)
        with locked(folder):
            _check_no_shards(folder, split)  # another process may have written there meanwhile
            move_all((path, folder / path.name) for path in sorted(new.iterdir()))
    return count


def _check_no_shards(folder: Path, split: str) -> None:
    if shard_paths(folder, split):
        raise UsageError(f"holds {split} shards already", where=folder, remedy="choose another folder")


def _groups(samples: Iterable[Sample], size: int) -> Iterator[Iterable[Sample]]:
    iterator = iter(samples)
    for first in iterator:
        yield itertools.chain([first], itertools.islice(iterator, size - 1))


def _write_tar(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    keys: set[str] = set()
    with TarWriter(path) as tar:
        for sample in samples:
            if sample.key in keys:
                raise DataError(
                    "the key occurs twice", where=sample.key, remedy="give each sample its own key"
                )
            keys.add(sample.key)
            add_sample(tar, sample)
            count += 1
    return count


def add_sample(tar: TarWriter, sample: Sample) -> None:
    """Raises DataError for a sample that could not be read back."""
    for extension, content in encode_members(sample):
        _check_size(sample.key, extension, len(content))
        tar.add(f"{sample.key}.{extension}", content)


def _check_size(key: str, extension: str, size: int) -> None:
    limit = MAX_IMAGE if extension in IMAGE_EXTENSIONS else MAX_TEXT
    if size > limit:
        raise DataError(
            f"its .{extension} is larger than {limit} bytes",
            where=key,
            remedy="correct the sample, or leave it out",
        )
