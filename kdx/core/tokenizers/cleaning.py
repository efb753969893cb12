"""What open_clip does to a text before it is split, by the name that its configurations give it (`clean`)."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

import ftfy

from ..errors import DataError

_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _lower(text: str) -> str:
    return " ".join(_repair(text).split()).lower()


def _whitespace(text: str) -> str:
    return " ".join(_repair(text).split())


def _canonicalize(text: str) -> str:
    """Lower case without ASCII punctuation, as SigLIP was trained (big_vision's prompt_engineering.py)."""
    return " ".join(_repair(text).translate(_PUNCTUATION).lower().split())


def _none(text: str) -> str:
    """Hugging Face's way. A lone surrogate, which no tokenizer takes, becomes U+FFFD as ftfy would make it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _repair(text: str) -> str:
    """Mends what was decoded wrongly, and entities. On printable ASCII without entities it changes nothing."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "whitespace": _whitespace,
    "canonicalize": _canonicalize,
    "none": _none,
}


def cleaner(name: str) -> Callable[[str], str]:
    """Raises DataError for an unknown name: it comes out of a model's configuration."""
    try:
        return CLEANERS[name]
    except (KeyError, TypeError):
        raise DataError(
            f"texts are to be cleaned in the way {name!r}, which kdx lacks",
            remedy=f"it has {', '.join(CLEANERS)}",
        ) from None
