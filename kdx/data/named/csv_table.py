"""Any table with a header that names an image and its class or caption a line: the columns of `kdx data convert`.

OpenCLIP's and CLIP-KD's have tabs between `title` and `filepath`; several lines of one image are its captions. Paths
are relative to the table's folder. Where a column `split` says what is held out, that alone is scored.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError
from kdx.data.plan import SPLITS, TEST, TRAIN, VAL
from kdx.data.sources.columns import REMEDY, Wanted
from kdx.data.sources.source import Row, Unusable
from kdx.data.sources.table import Table

from .captioned import ABSENT
from .image_list import Entry, Listing
from .table import SetRecord

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class TableImage:
    table: Table
    image: str

    def state(self) -> list[Any]:
        return [self.table.state(self.image)]

    def read(self) -> bytes:
        try:
            return self.table.read(self.image)
        except Unusable as reason:
            raise DataError(str(reason), where=self.image, remedy="check the file") from None


def read_csv_table(record: SetRecord, root: Path) -> Listing | None:
    """root: the table itself, or a folder with one. None where there is none. Raises DataError for several."""
    path = _find(record, root)
    if path is None:
        return None
    table = Table(path, [path.parent], Wanted())
    skipped: list[tuple[str, str]] = []
    rows: dict[str, list[Row]] = {}
    try:
        for row in table.rows(lambda what, reason: skipped.append((what, reason))):
            rows.setdefault(row.image, []).append(row)
    except DataError as error:
        if error.remedy != REMEDY:
            raise
        raise DataError(
            error.what, where=error.where, remedy="call the columns filepath, and label or title"
        ) from None
    entries: list[Entry] = []
    texts: dict[str, str] = {}
    for image, about in _held_out(path, rows).items():
        labels = {row.label for row in about if row.label}
        captions = tuple(text for row in about for text in row.captions if text)
        if table.state(image) is None:
            skipped.append((image, ABSENT))
        elif len(labels) > 1:
            skipped.append((image, f"it has several labels: {', '.join(sorted(labels))[:60]}"))
        elif not labels and not captions:
            skipped.append((image, "it has neither a label nor a caption"))
        else:
            entries.append(Entry(image, TableImage(table, image), None, captions[: record.captions]))
            texts.update((image, label) for label in labels)
    return Listing(entries, skipped, texts=texts)


def _held_out(path: Path, rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The images of the split `val`, or else of `test`, where the table has splits; they are in one by their first row.

    Raises DataError where it has train images alone.
    """
    named = {image: about[0].split for image, about in rows.items()}
    if not any(named.values()):
        return rows
    splits = {image: SPLITS.get((name or TRAIN).lower()) for image, name in named.items()}
    wanted = next((split for split in (VAL, TEST) if split in splits.values()), None)
    if wanted is None:
        raise DataError(
            f"its column `split` has {', '.join(sorted({str(name) for name in named.values() if name})[:5])}, "
            "and nothing that is held out",
            where=path,
            remedy="call what is to be scored val or test, or remove the column",
        )
    kept = {image: about for image, about in rows.items() if splits[image] == wanted}
    if len(kept) < len(rows):
        log.warning(
            "%s: scored are the %s of its %s images that are in the split %s",
            path,
            f"{len(kept):,}",
            f"{len(rows):,}",
            wanted,
        )
    return kept


def expected_table(record: SetRecord) -> str:
    return " nor ".join(record.annotations) if record.annotations else "*.csv, *.tsv"


def _find(record: SetRecord, root: Path) -> Path | None:
    if root.is_file():
        return root
    if record.annotations:
        return next((root / name for name in record.annotations if (root / name).is_file()), None)
    if not root.is_dir():
        return None
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(found) > 1:
        raise DataError(
            f"holds several tables: {', '.join(path.name for path in found[:5])}",
            where=root,
            remedy="give one of them as --root",
        )
    return found[0] if found else None
