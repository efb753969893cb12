"""Which source it is that `kdx data convert` is given."""

from __future__ import annotations

from pathlib import Path

from kdx.core.errors import DataError, UsageError

from .arrow import SUFFIXES as ARROW, arrow_files, open_arrow
from .coco import open_annotations
from .columns import Wanted
from .folder import open_folder
from .several import Several
from .shards import Shards, is_shards
from .source import Source
from .table import Table

TABLES = (".csv", ".tsv", ".txt")


def open_source(places: list[Path], captions: list[Path], wanted: Wanted) -> Source:
    """places: a folder, or the folders in which the images of `captions` are looked for; several captions go with
    as many folders, in the same order. Raises UsageError for what does
    not go together, DataError for what is no source.
    """
    for place in places:
        if not place.exists():
            raise DataError("there is no such file or folder", where=place, remedy="check the path")
    if captions:
        if len(captions) == 1:
            return _annotated(captions[0], places, wanted)
        if len(places) not in (1, len(captions)):
            raise UsageError(
                f"{len(captions)} files with captions and {len(places)} folders",
                remedy="give a folder for each file, in the same order, or one for all",
            )
        each = places if len(places) > 1 else places * len(captions)
        return Several(
            [_annotated(*pair, wanted) for pair in zip(captions, ([p] for p in each), strict=True)]
        )
    if len(places) > 1:
        raise UsageError("several folders without --captions", remedy="name the file with their captions")
    (place,) = places
    if place.is_dir():
        if is_shards(place):
            return Shards(place)
        return open_arrow(place, wanted) if arrow_files(place) else open_folder(place)
    if place.suffix.lower() in ARROW:
        return open_arrow(place, wanted)
    return _annotated(place, [place.parent], wanted)


def _annotated(file: Path, folders: list[Path], wanted: Wanted) -> Source:
    if not file.is_file():
        raise DataError("there is no such file", where=file, remedy="check the path")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                "is not a folder of images", where=folder, remedy="give the folder that holds them"
            )
    if file.suffix.lower() in TABLES:
        return Table(file, folders, wanted)
    if file.suffix.lower() == ".json":
        return open_annotations(file, folders)
    raise DataError(
        "is no file with captions of a known kind",
        where=file,
        remedy=f"give a table ({', '.join(TABLES)}) or COCO's JSON (.json)",
    )
