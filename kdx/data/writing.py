"""Writing the shards of a split: all of them are there in the end, or none."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.workspace import locked, move_all, workspace

from .drafts import IMAGE_EXTENSIONS, MAX_IMAGE, MAX_TEXT
from .places import shard_paths
from .sample import Sample, encode_members
from .tar_writer import TarWriter


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
