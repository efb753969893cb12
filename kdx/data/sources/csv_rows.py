"""The rows of a CSV, in which no quote that is missing, or one too many, hides any."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from ..drafts import MAX_TEXT


class OpenQuote(Exception):
    """A quote opens in line `line`, and what is behind it would all be its text."""

    def __init__(self, line: int) -> None:
        super().__init__(f"a quote that opens in line {line} is never closed")


def read_rows(
    lines: Iterable[str], delimiter: str, first: int = 1
) -> Iterator[tuple[range, list[str] | None]]:
    """(its lines, fields) of each row. first: the number of the first line.

    Within one line quotes are taken as they come, as most readers do. A quoted text that runs over lines and ends in
    the middle of a field was never meant as one: its lines are given without fields, since each may be a row of its
    own; and so is a line with a field of more than MAX_TEXT characters. Raises OpenQuote.
    """
    csv.field_size_limit(MAX_TEXT)
    held: list[str] = []  # the lines of the row that is read
    ended = False

    def feed() -> Iterator[str]:
        nonlocal ended
        for line in lines:
            held.append(line)
            yield line
        ended = True

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        held.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if ended or (len(held) > 1 and sum(map(len, held)) > MAX_TEXT):
                raise OpenQuote(first) from None
            fields = _as_it_comes(held, delimiter)
        yield range(first, first + len(held)), fields
        first += len(held)


def _as_it_comes(lines: list[str], delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader(lines, delimiter=delimiter)) if len(lines) == 1 else None
    except csv.Error:
        return None
