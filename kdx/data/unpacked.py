"""What to type for data that is not in shards yet."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from .sources.folder import is_picture

TABLES = (".csv", ".tsv", ".json")
ARROW = (".parquet", ".arrow")
ENTRIES = 2000  # files that are looked at: a refusal should not walk through millions


def convert_command(place: Path) -> str | None:
    """The `kdx data convert` for a folder of pictures or Parquet, or for a file with captions; None for others."""
    if place.suffix.lower() in ARROW and place.is_file():
        return _command(place, None)
    if place.suffix.lower() in TABLES and place.is_file():
        return _command(place.parent, place)
    if not place.is_dir():
        return None
    files = list(itertools.islice(_files(place), ENTRIES))
    if not any(is_picture(file.name) for file in files):
        return _command(place, None) if any(file.suffix in ARROW for file in files) else None
    pictures = {file.with_suffix("") for file in files if is_picture(file.name)}
    if any(file.suffix == ".txt" and file.with_suffix("") in pictures for file in files):
        return _command(place, None)
    for file in (*files, *sorted(place.absolute().parent.iterdir())):
        if file.suffix.lower() in TABLES and file.is_file():
            return _command(place, file)
    if all(file.parent != place for file in pictures):
        return _command(place, None)
    return _command(place, Path("captions.csv"))


def _command(folder: Path, captions: Path | None) -> str:
    named = "" if captions is None else f" --captions {quoted(captions)}"
    return f"kdx data convert {quoted(folder)}{named} --val 0.2 --out shards"


def quoted(path: Path) -> str:
    """For a shell; below the current folder without the way to it."""
    return shlex.quote(
        os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
    )


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _files(entry)
