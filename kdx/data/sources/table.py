"""A table with a line for each caption: OpenCLIP's tab-separated `title` and `filepath`, or any CSV."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError, beginning

from ..drafts import MAX_TEXT
from .columns import PREPARE, Columns, Wanted, find_columns, has_images, is_url
from .csv_rows import OpenQuote, read_rows
from .files import OfFiles
from .keys import key_of
from .source import LeaveOut, Row

DELIMITERS = "\t,;|"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
GUESSED = "WINDOWS-1252"  # what spreadsheets write where it is not UTF-8


class Table(OfFiles):
    """Rows of a CSV or TSV with a header; images lie in the first of `folders` that has them.

    Several rows of one image are its captions, wherever they stand.
    """

    def __init__(self, file: Path, folders: list[Path], wanted: Wanted) -> None:
        super().__init__(file, folders)
        self._wanted = wanted

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        try:
            yield from self._rows(leave_out)
        except UnicodeDecodeError:
            raise _not_utf8(self.place) from None
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=self.place, remedy="check the path"
            ) from None

    def _rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        with self.place.open(encoding="utf-8-sig", newline="") as file:
            try:
                delimiter, names = _read_header(self.place, file.readline(), self._wanted)
                columns = find_columns(names, self._wanted, self.place)
                at = {name: index for index, name in enumerate(names)}
                for lines, fields in read_rows(file, delimiter, first=2):
                    if fields is None or len(fields) not in (0, len(names)):
                        reason = _unfit(fields, len(names), delimiter, lines)
                        for line in lines:  # any of them may be a row of its own
                            leave_out(self._line(line), reason)
                    elif fields and (row := self._row(fields, at, columns, lines[0], leave_out)) is not None:
                        yield row
            except OpenQuote as error:
                raise DataError(
                    str(error),
                    where=self.place,
                    remedy='text with quotes, commas or line breaks stands in "…", and a quote in it is written twice',
                ) from None

    def _line(self, number: int) -> str:
        return f"{self.place.name}, line {number}"

    def _row(
        self, fields: list[str], at: dict[str, int], columns: Columns, line: int, leave_out: LeaveOut
    ) -> Row | None:
        image = fields[at[columns.image]].strip()
        if not image:
            leave_out(self._line(line), "names no image")
            return None
        if is_url(image):
            raise DataError(
                f"its column {columns.image!r} has URLs, such as {beginning(image)}",
                where=self.place,
                remedy=PREPARE,
            )
        caption, label, split = (
            None if name is None else fields[at[name]].strip()
            for name in (columns.caption, columns.label, columns.split)
        )
        return Row(
            image.removeprefix("./"),
            key_of(self._files.relative(image)),
            () if caption is None else (caption,),
            label or None,
            split or None,
        )


def _read_header(place: Path, line: str, wanted: Wanted) -> tuple[str, list[str]]:
    """The delimiter and the names: that with which there is a column of images, or else the most columns."""
    if not line.strip():
        raise DataError("is empty", where=place, remedy="give a table whose first line names its columns")
    headers = [(delimiter, _names(line, delimiter)) for delimiter in DELIMITERS]
    return max(headers, key=lambda header: (has_images(header[1], wanted), len(header[1])))


def _names(line: str, delimiter: str) -> list[str]:
    """Raises OpenQuote."""
    _, fields = next(read_rows([line], delimiter))
    return [name.strip() for name in fields or ()]


def _unfit(fields: list[str] | None, expected: int, delimiter: str, lines: range) -> str:
    if len(lines) > 1:
        return f"lines {lines[0]} to {lines[-1]} are no row: is a quote missing, or one too many?"
    if fields is None:
        return f"has a field of more than {MAX_TEXT:,} characters"
    mark = {"\t": "tab", ",": "comma", ";": "semicolon"}.get(delimiter, delimiter)
    hint = f" (a {mark} in a caption? put the caption in quotes)" if len(fields) > expected else ""
    return f"has {len(fields)} fields and not {expected}{hint}"


def _not_utf8(place: Path) -> DataError:
    with place.open("rb") as file:
        encoding = "UTF-16" if file.read(2) in UTF16 else GUESSED
    source, target = shlex.quote(place.name), shlex.quote(f"{place.stem}-utf8{place.suffix}")
    return DataError(
        "is not UTF-8 text" + (", but UTF-16" if encoding == "UTF-16" else ""),
        where=place,
        remedy=f"save it as UTF-8: iconv -f {encoding} -t UTF-8 {source} > {target}"
        + ("" if encoding == "UTF-16" else " (or what it was written in)"),
    )
