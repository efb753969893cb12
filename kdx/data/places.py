"""Where the shards of a split lie: what `--data` takes.

shards                                  a folder; its shards are train-*.tar, val-*.tar, test-*.tar, or 00000.tar …
                                        as img2dataset writes them, which are train shards; also in subfolders
cc12m/{00000..01242}.tar, cc12m/0*.tar  the shards themselves, whatever split is asked for
cc3m::cc12m                             several of these, one after the other
cc12m#val=0.01                          a hundredth of the train shards' samples is the split "val", the rest "train"
s3://bucket/cc12m/{00000..01242}.tar    any of these at a URL that fsspec opens (kdx/core/urls.py: a URL as a Path)
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.urls import file_name, url_of

# split → how its shards begin, the first found counts: who has test shards alone scores on them
SPLITS = {"train": ("train",), "val": ("val", "test"), "test": ("test",)}
INDEX_SUFFIX = ".index.safetensors"
COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz")
FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHARE = re.compile(r"#val=(.*)$")
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Place:
    """parts: folders and patterns. val: the share of the train shards' samples that is held out as "val"."""

    parts: tuple[Path, ...]
    val: float | None

    @classmethod
    def parse(cls, text: str | Path) -> Place:
        """Raises UsageError for a share that is none, and for a part without a name."""
        places, val = str(text), None
        if found := SHARE.search(places):
            places = places[: found.start()]
            try:
                val = float(found[1])
            except ValueError:
                val = 0.0
            if not 0 < val < 1:
                raise UsageError(f"#val={found[1]} is no share", where=text, remedy="such as #val=0.01")
        parts = places.split("::")
        if not all(parts):  # which would be the folder that the command runs in
            raise UsageError("names no place beside ::", where=text, remedy="such as cc3m::cc12m")
        return cls(tuple(map(Path, parts)), val)

    @property
    def folders(self) -> list[Path]:
        """The folders in which texts about the set may lie: of a pattern, where its shards begin to differ."""
        return [_folder(part) for part in self.parts]


def shard_paths(place: Path, split: str) -> list[Path]:
    """The shards of a split in their order; none if there are none.

    Raises UsageError for an unknown split, DataError for a shard that a pattern names and is not there.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", remedy=f"use {' or '.join(SPLITS)}")
    parsed = Place.parse(place)
    if parsed.val is not None and split == "val":
        if any(_shards(part, "val") for part in parsed.parts if not _is_pattern(part)):
            raise UsageError("has val shards of its own", where=place, remedy="leave out #val=")
        split = "train"
    found = [_shards(part, split) for part in parsed.parts]
    missing = next((part for part, shards in zip(parsed.parts, found, strict=True) if not shards), None)
    if split == "train" and any(found) and missing is not None:
        raise DataError("there are no train shards", where=missing, remedy="check the path")
    return list(itertools.chain.from_iterable(found))


def splits_there(place: Path) -> dict[str, list[Path]]:
    """The shards of each split, none for two splits: test-*.tar without val-*.tar are those of "val".

    With a share, "train" and "val" have the same shards.
    """
    there: dict[str, list[Path]] = {}
    shared = Place.parse(place).val is not None
    for split in SPLITS:
        paths = shard_paths(place, split)
        if paths and (paths not in there.values() or (shared and split == "val")):
            there[split] = paths
    return there


def numbered_shards(folder: Path) -> list[Path]:
    """Those that have no split in their names, as img2dataset writes them (00000.tar): they are train shards."""
    return _numbered(folder.glob("[0-9]*.tar"))


def compressed_shards(folder: Path) -> list[Path]:
    """Those in a folder that nobody reads, because a sample in the middle of one cannot be read alone."""
    return (
        sorted(path for path in folder.iterdir() if path.name.endswith(COMPRESSED)) if folder.is_dir() else []
    )


def index_beside(shard: Path) -> Path:
    """Where the index of a shard lies unless another folder is named."""
    return shard.with_suffix(INDEX_SUFFIX)


def expand_braces(pattern: str) -> list[str]:
    """As a shell does: `{00000..00002}`, `{a,b}`, several of them."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    if numbers := RANGE.fullmatch(found[1]):
        first, last = int(numbers[1]), int(numbers[2])
        padded = numbers[1].startswith("0") or numbers[2].startswith("0")
        width = max(len(numbers[1]), len(numbers[2])) if padded else 0
        step = 1 if first <= last else -1
        options = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    else:
        options = found[1].split(",")
    return [each for option in options for each in expand_braces(f"{before}{option}{after}")]


def _shards(part: Path, split: str) -> list[Path]:
    if _is_pattern(part):
        return _named(part)
    here = _tars_in(part)
    for prefix in SPLITS[split]:
        if paths := [path for path in here if path.name.startswith(f"{prefix}-")]:
            return paths
    numbered = _numbered(here)
    if numbered or any(path.name.startswith(f"{prefix}-") for path in here for prefix in SPLITS):
        return numbered if split == "train" else []
    return _below(part, split)


def _below(folder: Path, split: str) -> list[Path]:
    """The shards in subfolders. Their names say the split, or the folders that they are in."""
    by_split: dict[str, list[Path]] = {}
    for path in _tars_below(folder):
        prefix = path.name.partition("-")[0]
        if prefix not in SPLITS:
            if not path.stem.isdecimal():
                continue
            names = [FOLDERS.get(name.lower()) for name in path.relative_to(folder).parts[:-1]]
            prefix = next(filter(None, reversed(names)), "train")
        by_split.setdefault(prefix, []).append(path)
    return next((by_split[prefix] for prefix in SPLITS[split] if prefix in by_split), [])


def _numbered(tars: Iterable[Path]) -> list[Path]:
    return sorted((path for path in tars if path.stem.isdecimal()), key=_order)


def _tars_in(folder: Path) -> list[Path]:
    """Those directly in a folder, by their names."""
    if (url := url_of(folder)) is None:
        return sorted(folder.glob("*.tar"))
    from .remote.files import tars_in

    return sorted(map(Path, tars_in(url)))


def _tars_below(folder: Path) -> Iterator[Path]:
    if (url := url_of(folder)) is not None:
        from .remote.files import tars_below

        yield from sorted(map(Path, tars_below(url)), key=_order)
        return
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from sorted((Path(here, name) for name in files if name.endswith(".tar")), key=_order)


def _named(pattern: Path) -> list[Path]:
    """Raises DataError for a shard that is named and not there."""
    paths: list[Path] = []
    for name in expand_braces(str(pattern)):
        folder = _folder(Path(name))
        if "*" in name:
            paths += sorted(_matching(Path(name), folder), key=_order)
        else:
            paths.append(Path(name))
    missing = [path for path in paths if url_of(path) is None and not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(paths):,} shards are missing, such as {missing[0].name}",
            where=pattern,
            remedy="check the pattern, or get them",
        )
    return paths


def _matching(pattern: Path, folder: Path) -> Iterable[Path]:
    if (url := url_of(pattern)) is None:
        return folder.glob(str(pattern.relative_to(folder)))
    from .remote.files import matching

    return map(Path, matching(url))


def _is_pattern(part: Path) -> bool:
    return not part.is_dir() and (file_name(part).endswith(".tar") or any(sign in str(part) for sign in "{*"))


def _folder(part: Path) -> Path:
    if not _is_pattern(part):
        return part
    return next(parent for parent in part.parents if not any(sign in str(parent) for sign in "{*"))


def _order(path: Path) -> tuple[str, int, str]:
    """Numbers by their values, also where some have more digits."""
    return (str(path.parent), int(path.stem) if path.stem.isdecimal() else -1, path.name)
