"""The items of the arrays in a JSON document, one at a time: COCO's annotations need gigabytes as Python objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

CHUNK = 2**20
MAX_ITEM = 2**26  # characters of one item: what is longer is not a list of annotations
SPACE = " \t\r\n"


def read_items(path: Path, arrays: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(name of the array, item) for those arrays of a document's object that are asked for, in the file's order.

    Raises DataError for what is no JSON object.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(file, path).items(arrays)
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=path, remedy="save it as UTF-8, as JSON must be") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from None


class _Reader:
    def __init__(self, file: Any, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._before = 0  # characters that were dropped
        self._ended = False
        self._decoder = json.JSONDecoder()

    def items(self, arrays: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if self._next() == "[":
            raise DataError(
                "is a JSON list, not an object with lists in it",
                where=self._path,
                remedy="it should be an object that has " + " and ".join(f"`{name}`" for name in arrays),
            )
        self._take("{")
        while self._next() != "}":
            name = self._value()
            self._take(":")
            if self._next() == "[":
                for item in self._array():
                    if name in arrays:
                        yield name, item
            else:
                self._value()
            if self._next() == ",":
                self._at += 1
            elif self._next() != "}":
                raise self._bad()

    def _array(self) -> Iterator[Any]:
        self._take("[")
        while self._next() != "]":
            yield self._value()
            if self._next() == ",":
                self._at += 1
            elif self._next() != "]":
                raise self._bad()
        self._at += 1

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                # cut at the end of what was read, or wrong
                if self._ended or len(self._text) - self._at > MAX_ITEM:
                    raise self._bad() from None
            else:
                # a number is cut without an error: 1 of 12, 0 of 0.5, 1 of 1e+5
                if self._ended or (end < len(self._text) and self._text[end] not in ".eE"):
                    self._at = end
                    return value
            self._read_more()

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_more()

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._bad()
        self._at += 1

    def _read_more(self) -> None:
        # twice what is there: a long item is parsed again from its beginning, and should be so a few times only
        more = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._ended = not more
        self._before += self._at
        self._text = self._text[self._at :] + more
        self._at = 0

    def _bad(self) -> DataError:
        return DataError(
            f"is no whole JSON object: it breaks off or is malformed near character {self._before + self._at}",
            where=self._path,
            remedy="get it again",
        )
