"""Images with captions that an annotation file names: which are there, and how many captions of each count."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

from .image_list import Entry, Listing, PlainFile
from .table import SetRecord

ABSENT = "the image is absent"


@dataclass(frozen=True)
class Annotation:
    """fields: what the record's `photos` are filled with to give the image's path under the root."""

    key: str
    fields: dict[str, Any]
    captions: list[str]


def list_annotated(record: SetRecord, root: Path, file: Path, annotations: Iterable[Annotation]) -> Listing:
    """With as many captions of each image as the record's protocol takes; what is absent is skipped.

    Raises DataError where none of the images is there.
    """
    entries: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for found in annotations:
        path = _photo(record, root, found.fields)
        captions = tuple(text for text in (" ".join(text.split()) for text in found.captions) if text)
        if found.key in seen:
            skipped.append((found.key, "it is annotated twice"))
        elif not captions:
            skipped.append((found.key, "it has no caption"))
        elif path is None:
            skipped.append((found.key, ABSENT))
        else:
            entries.append(Entry(found.key, PlainFile(str(path)), None, captions[: record.captions]))
        seen.add(found.key)
    if skipped and all(reason == ABSENT for _, reason in skipped) and not entries:
        raise DataError(
            f"none of the {len(seen):,} images that {file.name} names is there; looked for {', '.join(record.photos)}",
            where=root,
            remedy="unpack the images at --root too",
        )
    return Listing(entries, skipped)


def find_annotations(record: SetRecord, root: Path) -> Path | None:
    return next((root / name for name in record.annotations if (root / name).is_file()), None)


def expected_annotations(record: SetRecord) -> str:
    return " nor ".join(record.annotations)


def _photo(record: SetRecord, root: Path, fields: dict[str, Any]) -> Path | None:
    paths = (root / pattern.format(**fields) for pattern in record.photos)
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113 - is_file raises for long names
