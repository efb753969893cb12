"""What somebody may have meant who wrote a name that is not known, and one of a thing or several."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`; None if none is much like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def count_of(number: int, one: str, several: str = "") -> str:
    """As it is read: "1 template", "1,000 classes"."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def listed(items: Iterable[object], last: str = "and") -> str:
    """As it is read: "64, 128 or 256"."""
    *others, final = map(str, items)
    return f"{', '.join(others)} {last} {final}" if others else final
