"""Which column of a list holds the URLs and which the captions: seen from its first rows, whatever its name.

Google's CC3M has the caption first, CC12M the URL, and neither has a header; others have one. Fields between TABs are
taken as they are, because Google's captions hold single quotation marks; fields between commas are CSV.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError, UsageError, beginning
from kdx.data.sources.csv_rows import OpenQuote, read_rows

ROWS_SEEN = 100
URL = re.compile(r"https?://[^\s/]+", re.IGNORECASE)
URL_NAMES = ("url", "image_url", "img_url", "image")
CAPTION_NAMES = ("caption", "text", "title", "alt", "alt_text")
FEW_URLS = 0.5  # of the rows seen: a column with fewer is not the one
COMPRESSED = {
    b"\x1f\x8b": "gunzip -k",
    b"PK": "unzip",
    b"BZ": "bunzip2 -k",
    b"\xfd7": "xz -dk",
    b"(\xb5": "zstd -d",
}


@dataclass(frozen=True)
class UrlList:
    """files: in their order. format: parquet, tab, comma or lines (a URL each). url, caption: numbers of columns from
    0, of the whole row; caption is None where there is none. header: whether the first row names the columns.
    """

    files: tuple[Path, ...]
    format: str
    url: int
    caption: int | None
    header: bool = False
    names: tuple[str, ...] = ()


def list_files(path: Path) -> tuple[Path, ...]:
    """The list itself, or the Parquet files of a folder. Raises DataError."""
    if path.is_dir():
        if files := tuple(sorted(path.glob("*.parquet"))):
            return files
        raise DataError(
            "holds no *.parquet", where=path, remedy="name the list itself, or a folder of Parquet files"
        )
    if not path.is_file():
        raise DataError("there is no such list", where=path, remedy="check the path")
    with path.open("rb") as file:
        start = file.read(2)
    if tool := COMPRESSED.get(start):
        raise DataError("is compressed", where=path, remedy=f"unpack it first: {tool} {path.name}")
    return (path,)


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_text_list(path: Path, url_column: str | None, caption_column: str | None) -> UrlList:
    """The columns of a list in a text file. Raises DataError, and UsageError for a column that is not there."""
    lines = _first_lines(path)
    format_ = _find_format(path, lines)
    if format_ == "tab":
        rows = [line.split("\t") for line in lines]
    elif format_ == "comma":
        rows = _comma_rows(lines)
    else:
        rows = [[line] for line in lines]
    header = bool(rows) and not any(is_url(field) for field in rows[0])
    if len(rows) == header:
        raise DataError("holds no URL", where=path, remedy="give a list with a URL (http, https) in each row")
    names = tuple(name.strip() for name in rows[0]) if header else ()
    url, caption = choose_columns(path, names, rows[header:], url_column, caption_column)
    return UrlList((path,), format_, url, caption, header, names)


def choose_columns(
    path: Path,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    url_column: str | None,
    caption_column: str | None,
) -> tuple[int, int | None]:
    """The numbers of the columns of URLs and captions, from 0. names: () where there is no header.

    url_column, caption_column: the user's choice, a name or a number from 1. Raises as `read_text_list`.
    """
    width = max(len(names), *(len(row) for row in rows))
    shown = ", ".join(names) if names else f"{width} without names"
    if url_column is not None:
        url = _find_named(path, url_column, names, width, shown)
    else:
        url = _find_url_column(path, names, rows, width, shown)
    if caption_column is not None:
        return url, _find_named(path, caption_column, names, width, shown)
    others = [number for number in range(width) if number != url]
    named = _numbers_named(CAPTION_NAMES, names, others)
    if named or len(others) < 2:
        return url, next(iter([*named, *others]), None)
    raise DataError(
        f"none of its columns is plainly the captions; there are {shown}",
        where=path,
        remedy="name one with --caption-column",
    )


def is_url(field: str) -> bool:
    return URL.match(field.strip()) is not None


def _find_url_column(
    path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], width: int, shown: str
) -> int:
    shares = [
        sum(is_url(row[number]) for row in rows if number < len(row)) / len(rows) for number in range(width)
    ]
    found = [number for number, share in enumerate(shares) if share > FEW_URLS]
    named = _numbers_named(URL_NAMES, names, found)
    if not found:
        raise DataError(
            f"none of its columns holds URLs (http, https); there are {shown}",
            where=path,
            remedy="give a list with a URL in each row",
        )
    if len(found) > 1 and not named:
        raise DataError(
            f"{len(found)} of its columns hold URLs; there are {shown}",
            where=path,
            remedy="name that of the images with --url-column",
        )
    return (named or found)[0]


def _numbers_named(wanted: Sequence[str], names: Sequence[str], among: Sequence[int]) -> list[int]:
    lower = [name.lower() for name in names]
    return [lower.index(name) for name in wanted if name in lower and lower.index(name) in among]


def _find_named(path: Path, column: str, names: Sequence[str], width: int, shown: str) -> int:
    if column in names:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    raise UsageError(
        f"there is no column {beginning(column)!r}; there are {shown}",
        where=path,
        remedy="give one of these, or a number from 1",
    )


def _first_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line.rstrip("\r\n") for line in itertools.islice(file, ROWS_SEEN)]
    except UnicodeDecodeError:
        raise DataError(
            "is not UTF-8 text",
            where=path,
            remedy=f"convert it, such as: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError("is empty", where=path, remedy="give a list with a URL in each row")
    return lines


def _comma_rows(lines: Sequence[str]) -> list[list[str]]:
    """Those that end among the lines."""
    rows: list[list[str]] = []
    with contextlib.suppress(OpenQuote):
        rows.extend(fields for _, fields in read_rows(lines, ",") if fields)
    return rows


def _find_format(path: Path, lines: Sequence[str]) -> str:
    """A URL may hold commas, so a line that is nothing but a URL is not CSV unless the file says so."""
    if any("\t" in line for line in lines):
        return "tab"
    if path.suffix.lower() == ".csv" or not any(is_url(line) and " " not in line.strip() for line in lines):
        return "comma"
    return "lines"
