"""Parquet and Arrow files, as Hugging Face `datasets` writes them: a column of images, and captions or classes."""

from __future__ import annotations

import itertools
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.core.errors import DataError, UsageError, beginning

from ..sample import is_index
from .columns import (
    CAPTION,
    IMAGE,
    LABEL,
    PREPARE,
    REMEDY,
    SPLIT,
    URL,
    Wanted,
    find,
    is_url,
    missing,
    plain,
    shown,
)
from .folder import SPLITS
from .source import LeaveOut, Row, Unusable

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow")
ROWS = 64  # images in one batch that is read
SHOWN_KIND = 60  # characters
NUMBERED_CAPTION = re.compile(r"(caption|text|sentence)\d+")


@dataclass(frozen=True)
class _Columns:
    """captions: several where they are numbered (caption_0 …)."""

    image: str
    captions: list[str]
    label: str | None
    split: str | None

    @property
    def said(self) -> list[str]:
        return [*self.captions, *(name for name in (self.label, self.split) if name is not None)]


class ArrowFiles:
    """An image is called by the number of its file and its row there."""

    def __init__(self, place: Path, files: list[Path], wanted: Wanted) -> None:
        self.place = place
        self._files = files
        self._schema: pa.Schema = _open_file(files[0]).schema
        self._columns = _find_columns(self._schema, wanted, files[0])
        self.classes = _class_names(self._schema, self._columns.label)
        self._reading: tuple[int, _ArrowFile] | None = None

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        total = 0
        for number, path in enumerate(self._files):
            file = _open_file(path)
            self._check_schema(path, file.schema)
            split = _split_of(path, self.place)
            row = 0
            for batch in file.read(self._columns.said, 0):
                for said in batch.to_pylist():
                    image = f"{number}:{row}"
                    found = self._row(image, f"{total:09d}", said, split)
                    if (reason := self._no_class(found.label)) is None:
                        yield found
                    else:
                        leave_out(self.name(image), reason)
                    row, total = row + 1, total + 1

    def read(self, image: str) -> bytes:
        number, row = map(int, image.split(":"))
        if self._reading is None or self._reading[0] != number:
            self._reading = number, _open_file(self._files[number])
        value = self._reading[1].value(self._columns.image, row)
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            path = value.get("path") if isinstance(value, dict) else None
            raise Unusable("the image is empty" if not path else f"there are no bytes, only the path {path}")
        return content

    def state(self, image: str) -> tuple[int, int] | None:
        try:
            status = self._files[int(image.partition(":")[0])].stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def name(self, image: str) -> str:
        number, _, row = image.partition(":")
        return f"{self._files[int(number)].name}, row {row}"

    def _row(self, image: str, key: str, said: dict[str, Any], split: str | None) -> Row:
        captions: list[str] = []
        for name in self._columns.captions:
            value = said[name]
            captions += [text for text in (value if isinstance(value, list) else [value]) if text is not None]
        label = None if self._columns.label is None else _label(said[self._columns.label])
        own = None if self._columns.split is None else said[self._columns.split]
        return Row(image, key, tuple(captions), label, own or split)

    def _no_class(self, label: str | None) -> str | None:
        """Why a label is none of the file's own classes."""
        if label is None or self.classes is None or (is_index(label) and int(label) < len(self.classes)):
            return None
        return f"its class is {label[:40]!r}, the file has 0 to {len(self.classes) - 1}"

    def _check_schema(self, path: Path, schema: pa.Schema) -> None:
        for name in (self._columns.image, *self._columns.said):
            if name not in schema.names or schema.field(name).type != self._schema.field(name).type:
                raise DataError(
                    f"its column {name!r} is not that of {self._files[0].name}; {shown(schema.names)}",
                    where=path,
                    remedy="convert files of different kinds one after the other",
                )


def _label(value: Any) -> str | None:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or str(value) == "-1":  # `datasets`: of a set whose labels are kept secret
        return None
    return str(value)


def open_arrow(place: Path, wanted: Wanted) -> ArrowFiles:
    """A file, or all files of a folder. Raises DataError, and ModuleNotFoundError without pyarrow."""
    return ArrowFiles(place, [place] if place.is_file() else arrow_files(place), wanted)


def arrow_files(folder: Path) -> list[Path]:
    """In subfolders too; of both kinds only the first, since `datasets` keeps Arrow files beside Parquet as a cache."""
    for suffix in SUFFIXES:
        files = sorted(path for path in folder.rglob(f"*{suffix}") if not path.name.startswith("."))
        if files:
            return files
    return []


# Files


class _ArrowFile(ABC):
    """Rows by number, cheaply where they are asked for in their order."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first = self._behind = 0  # rows of the current batch
        self._values: Any = None

    @abstractmethod
    def batches(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
        """Of all rows from `start` on."""

    def read(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
        """`batches`. Raises DataError for a file that is damaged behind its beginning."""
        import pyarrow as pa

        try:
            yield from self.batches(columns, start)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None

    def value(self, column: str, row: int) -> Any:
        if not self._first <= row < self._behind:
            if row != self._behind or row == 0:
                self._batches = self.read([column], row)
            batch = next(self._batches)
            self._values, self._first, self._behind = batch.column(0), row, row + batch.num_rows
        return self._values[row - self._first].as_py()


class _Parquet(_ArrowFile):
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
        super().__init__(path, self._file.schema_arrow)

    def batches(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
        sizes = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]
        before = list(itertools.accumulate(sizes, initial=0))
        first = max(n for n in range(len(before)) if before[n] <= start)
        groups = list(range(first, len(sizes)))
        skip = start - before[first]
        for batch in self._file.iter_batches(ROWS, row_groups=groups, columns=columns):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)


class _Stream(_ArrowFile):
    """Both of Arrow's own formats; mapped into memory and not read at once."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        mapped = pa.memory_map(str(path))
        if mapped.read(6) == b"ARROW1":
            file = pa.ipc.open_file(mapped)
            self._parts = [file.get_batch(n) for n in range(file.num_record_batches)]
        else:
            mapped.seek(0)
            file = pa.ipc.open_stream(mapped)
            self._parts = list(file)
        super().__init__(path, file.schema)

    def batches(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
        skip = start
        for part in self._parts:
            for first in range(skip, part.num_rows, ROWS):
                yield part.slice(first, ROWS).select(columns)
            skip = max(0, skip - part.num_rows)


def _open_file(path: Path) -> _ArrowFile:
    import pyarrow as pa

    try:
        return _Parquet(path) if path.suffix == ".parquet" else _Stream(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0]
    return DataError(f"cannot be read: {reason}", where=path, remedy="get the file again")


def _split_of(path: Path, place: Path) -> str | None:
    """`data/train-00000-of-00003.parquet`, `train/data-00000-of-00001.arrow`, `set-train.arrow`."""
    folders = path.relative_to(place).parts[:-1] if path != place else ()
    for word in (*folders, *re.split(r"[^a-z]+", path.stem.lower())):
        if word.lower() in SPLITS:
            return word.lower()
    return None


# Columns


def _find_columns(schema: pa.Schema, wanted: Wanted, place: Path) -> _Columns:
    names = schema.names
    image = _find_image(schema, wanted, place)
    _check_kind(schema, wanted.caption, _is_text, "text", place)
    _check_kind(schema, wanted.label, _is_class, "one class a row", place)
    others = [name for name in names if name != image]
    texts = [name for name in others if _is_text(schema.field(name).type)]
    caption = find(texts, wanted.caption, CAPTION, place)
    numbered = [name for name in texts if NUMBERED_CAPTION.fullmatch(plain(name))]
    captions = sorted(numbered, key=lambda n: (len(n), n)) if caption is None else [caption]
    classes = [n for n in others if n not in captions and _is_class(schema.field(n).type)]
    label = find(classes, wanted.label, LABEL, place)
    if not captions and label is None:
        _check_kind(schema, find(others, None, CAPTION, place), _is_text, "text", place)
        _check_kind(schema, find(others, None, LABEL, place), _is_class, "one class a row", place)
        raise missing("a caption or a class", (*CAPTION[:3], *LABEL[:2]), names, place)
    split = find([n for n in names if _is_one_text(schema.field(n).type)], None, SPLIT, place)
    return _Columns(image, captions, label, split)


def _check_kind(
    schema: pa.Schema, name: str | None, is_kind: Callable[[pa.DataType], bool], what: str, place: Path
) -> None:
    """Raises DataError for a column of another kind; for none, and for one that is not there, nothing."""
    if name in schema.names and not is_kind(schema.field(name).type):
        kind = beginning(str(schema.field(name).type), SHOWN_KIND)
        raise DataError(f"its column {name!r} holds {kind}, not {what}", where=place, remedy=REMEDY)


def _find_image(schema: pa.Schema, wanted: Wanted, place: Path) -> str:
    """By its type first: a struct with `bytes`, or bytes."""
    holding = [field.name for field in schema if _is_image(field.type)]
    if wanted.image is not None and wanted.image not in schema.names:
        raise UsageError(
            f"there is no column {wanted.image!r}; {shown(schema.names)}",
            where=place,
            remedy="name one of these",
        )
    if wanted.image in holding:
        return str(wanted.image)
    image = find(holding, None, IMAGE, place) if wanted.image is None else None
    if image is None and wanted.image is None and len(holding) == 1:
        return holding[0]
    if image is not None:
        return image
    texts = [n for n in schema.names if _is_text(schema.field(n).type)]
    text = wanted.image if wanted.image in texts else find(texts, None, (*URL, *IMAGE), place)
    if text is None:
        _check_kind(
            schema, wanted.image or find(schema.names, None, IMAGE, place), _is_image, "an image", place
        )
        raise missing("an image", IMAGE, schema.names, place)
    if plain(text) in URL or is_url(_first_text(place, text)):
        raise DataError(
            f"its column {text!r} has URLs, and no column has images", where=place, remedy=PREPARE
        )
    raise DataError(
        f"its column {text!r} has names of images, and no column has their bytes",
        where=place,
        remedy="write the columns to a CSV, and convert that with the folder of the images",
    )


def _first_text(place: Path, column: str) -> str:
    batch = next(_open_file(place).read([column], 0), None)
    return "" if batch is None or batch.num_rows == 0 else str(batch.column(0)[0].as_py())


def _is_image(kind: pa.DataType) -> bool:
    """Bytes, or a struct with `bytes`."""
    import pyarrow.types as types

    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return is_bytes or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _is_class(kind: pa.DataType) -> bool:
    """A name or a number; of floats because a column of integers with gaps comes as such from pandas."""
    import pyarrow.types as types

    return (
        _is_one_text(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    """Or a list of texts."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return _is_one_text(kind)


def _is_one_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """Of a ClassLabel of `datasets`."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
