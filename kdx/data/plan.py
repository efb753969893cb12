"""What will be written, before anything is: the rows of a source grouped by image, in a database on the disk.

The captions of an image may be anywhere in a source, and a source may have more rows than memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kdx.core.errors import DataError, UsageError

from .drafts import MAX_TEXT
from .sample import is_index, key_digest, names_among
from .sources.keys import distinct_key
from .sources.source import LeaveOut, Row, Source

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = {
    "train": TRAIN,
    "restval": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "test": TEST,
}
BATCH = 2000  # rows in one call of the database
TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
CREATE TABLE image (id INTEGER PRIMARY KEY, place BLOB NOT NULL UNIQUE, key TEXT NOT NULL, label TEXT, split TEXT);
CREATE TABLE caption (image INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE other_label (image INTEGER NOT NULL, text TEXT NOT NULL);
"""


class Planned(NamedTuple):
    """A sample to be. image: as its source calls it. label: index into the classes, or the index that it says."""

    key: str
    image: str
    captions: tuple[str, ...]
    label: int | None


class Plan:
    """Made by `make_plan`.

    splits: name → number of images, in the order in which they are written. numbered: labels are indices into the
    classes and not names. digest: of all that it says, so that an interrupted conversion knows whether its source
    still says the same.
    """

    def __init__(self, database: sqlite3.Connection, classes: list[str] | None, *, numbered: bool) -> None:
        self.classes = classes
        self._database = database
        counts = dict(database.execute("SELECT split, count(*) FROM image GROUP BY split"))
        self.splits: dict[str, int] = {name: counts[name] for name in (TRAIN, VAL, TEST) if name in counts}
        self._labels = None if classes is None else {name: index for index, name in enumerate(classes)}
        self._numbered = numbered
        digest = hashlib.sha256(json.dumps([self.splits, classes]).encode())
        for split in self.splits:
            rows = self._rows(split)
            while batch := rows.fetchmany(BATCH):
                digest.update(repr(batch).encode())
        self.digest = digest.hexdigest()

    @property
    def num_images(self) -> int:
        return sum(self.splits.values())

    def images(self, split: str) -> Iterator[Planned]:
        """In the order of the source, by the first row of each."""
        for _, group in itertools.groupby(self._rows(split), key=operator.itemgetter(0)):
            same = list(group)
            _, key, place, label, _ = same[0]
            captions = tuple([row[4] for row in same if row[4] is not None])
            yield Planned(key, _from_bytes(place), captions, self._label(label))

    def _rows(self, split: str) -> sqlite3.Cursor:
        return self._database.execute(
            "SELECT image.id, key, place, label, text FROM image LEFT JOIN caption ON caption.image = image.id"
            " WHERE split = ? ORDER BY image.id, caption.rowid",
            (split,),
        )

    def _label(self, text: str | None) -> int | None:
        if text is None:
            return None
        return int(text) if self._labels is None or self._numbered else self._labels[text]


def make_plan(file: Path, source: Source, *, val: float | None, leave_out: LeaveOut, note: LeaveOut) -> Plan:
    """Reads the rows of a source into a new database at `file`.

    val: the share of the images, by the digests of their keys, that is held out; a source with held-out images of
    its own must not be given one. note: told what is wrong with a sample that is written nevertheless. Raises
    DataError where there is nothing, UsageError for a share that leaves nothing on one side.
    """
    database = sqlite3.connect(file)
    database.executescript(TABLES)
    with database:
        _add_rows(database, source, leave_out, note)
        database.execute("CREATE INDEX by_image ON caption (image)")
        _note_other_labels(database, source, note)
        _leave_out_the_unsaid(database, source, leave_out)
        _make_keys_distinct(database)
        _assign_splits(database, source, val)
    classes = _classes(database, source)
    return Plan(database, classes, numbered=source.classes is not None)


def _add_rows(database: sqlite3.Connection, source: Source, leave_out: LeaveOut, note: LeaveOut) -> None:
    rows = source.rows(leave_out)
    while batch := list(itertools.islice(rows, BATCH)):
        images = [(_to_bytes(row.image), row.key, _label(row), _split(row, source)) for row in batch]
        database.executemany(
            "INSERT OR IGNORE INTO image (place, key, label, split) VALUES (?, ?, ?, ?)", images
        )
        database.executemany(
            "INSERT INTO caption SELECT id, ? FROM image WHERE place = ?", _captions(batch, source, note)
        )
        database.executemany(
            "INSERT INTO other_label SELECT id, ?1 FROM image WHERE place = ?2 AND label IS NOT ?1",
            [(_label(row), _to_bytes(row.image)) for row in batch if row.label is not None],
        )


def _captions(rows: Iterable[Row], source: Source, note: LeaveOut) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        for caption in row.captions:
            text = caption.removeprefix("\ufeff").strip()
            if (odd := _odd(text)) is not None:
                note(source.name(row.image), odd)
            else:
                yield text, _to_bytes(row.image)


def _odd(caption: str) -> str | None:
    if not caption:
        return "a caption is empty"
    try:
        size = len(caption.encode())
    except UnicodeEncodeError:
        return "a caption is not Unicode text"
    return f"a caption is longer than {MAX_TEXT:,} bytes" if size > MAX_TEXT else None


def _note_other_labels(database: sqlite3.Connection, source: Source, note: LeaveOut) -> None:
    """A label that a later row gives to an image without one counts; one that contradicts the first does not."""
    database.execute(
        "UPDATE image SET label = (SELECT text FROM other_label WHERE image = id ORDER BY rowid LIMIT 1)"
        " WHERE label IS NULL AND id IN (SELECT image FROM other_label)"
    )
    query = (
        "SELECT place, label, text FROM other_label JOIN image ON image = id WHERE text IS NOT label"
        " GROUP BY id, text ORDER BY id"
    )
    for place, label, text in database.execute(query):
        note(source.name(_from_bytes(place)), f"has two classes: {label!r} is taken, {text!r} is not")


def _leave_out_the_unsaid(database: sqlite3.Connection, source: Source, leave_out: LeaveOut) -> None:
    unsaid = "label IS NULL AND id NOT IN (SELECT image FROM caption)"
    for (place,) in database.execute(f"SELECT place FROM image WHERE {unsaid} ORDER BY id"):
        leave_out(source.name(_from_bytes(place)), "has neither a caption nor a class")
    database.execute(f"DELETE FROM image WHERE {unsaid}")
    if database.execute("SELECT 1 FROM image LIMIT 1").fetchone() is None:
        raise DataError(
            "has no image with a caption or a class", where=source.place, remedy="check what it holds"
        )


def _make_keys_distinct(database: sqlite3.Connection) -> None:
    """cat.jpg and cat.png: the first one keeps the key."""
    database.create_function("distinct_key", 2, lambda key, place: distinct_key(key, _from_bytes(place)))
    database.execute(
        "UPDATE image SET key = distinct_key(key, place)"
        " WHERE key IN (SELECT key FROM image GROUP BY key HAVING count(*) > 1)"
        " AND id NOT IN (SELECT min(id) FROM image GROUP BY key)"
    )


def _assign_splits(database: sqlite3.Connection, source: Source, val: float | None) -> None:
    held_out = dict(
        database.execute("SELECT split, count(*) FROM image WHERE split IN ('val', 'test') GROUP BY split")
    )
    if val is not None and held_out:
        said = ", ".join(f"{name}: {count} images" for name, count in held_out.items())
        raise UsageError(
            f"the source has its own split ({said})", where=source.place, remedy="leave out --val"
        )
    if val is not None:
        border = val * 2**64
        database.create_function("held_out", 1, lambda key: key_digest(key) < border, deterministic=True)
        chosen = database.execute("UPDATE image SET split = 'val' WHERE held_out(key)").rowcount
        total = database.execute("SELECT count(*) FROM image").fetchone()[0]
        if not 0 < chosen < total:
            raise UsageError(
                f"--val {val:g} would hold out {chosen} of {total} images",
                where=source.place,
                remedy="give another share, or more images",
            )
    database.execute("UPDATE image SET split = 'train' WHERE split IS NULL")


def _label(row: Row) -> str | None:
    """In one line, as it will stand in classes.txt."""
    return None if row.label is None else " ".join(row.label.split()) or None


def _split(row: Row, source: Source) -> str | None:
    if row.split is None:
        return None
    split = SPLITS.get(row.split.lower())
    if split is None:
        raise DataError(
            f"{source.name(row.image)} lies in the split {row.split!r}",
            where=source.place,
            remedy=f"the splits that are known: {', '.join(SPLITS)}",
        )
    return split


def _classes(database: sqlite3.Connection, source: Source) -> list[str] | None:
    """Names in label order: the source's own, or in alphabetical order; None where labels are integers or none."""
    texts = [text for (text,) in database.execute("SELECT DISTINCT label FROM image WHERE label IS NOT NULL")]
    if source.classes is not None:
        return source.classes
    if all(map(is_index, texts)):
        return None
    names = names_among(dict.fromkeys(texts, 1))
    if names is None or len(names) < len(texts):
        number = next(filter(is_index, texts))
        name = next(text for text in texts if not is_index(text))
        raise DataError(
            f"some of its classes are numbers ({number}) and some are names ({name})",
            where=source.place,
            remedy="give all as numbers, or all as names",
        )
    return names


def _to_bytes(text: str) -> bytes:
    """Of any text: a file's name may be no Unicode, and JSON can spell half a character."""
    return text.encode("utf-8", "surrogatepass")


def _from_bytes(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
