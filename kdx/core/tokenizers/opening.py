"""The tokenizer in a folder, by the files that lie there."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from .base import Tokenizer
from .clip import VOCABULARY, ClipTokenizer
from .hugging_face import TOKENIZER_FILE, HuggingFaceTokenizer
from .rules import RULES_FILE, read_rules


def open_tokenizer(folder: Path) -> Tokenizer:
    """That of a checkpoint or an exported model. Raises DataError if its files are missing or damaged."""
    kind, rules = read_rules(folder) or (ClipTokenizer.kind, {})
    if kind == HuggingFaceTokenizer.kind:
        return HuggingFaceTokenizer.from_files(folder, rules)
    if kind == ClipTokenizer.kind and rules.keys() <= {"clean"}:
        return ClipTokenizer.from_file(tokenizer_files(folder)[0], **rules)
    raise DataError(
        f"is of a tokenizer of the kind {kind!r} that this kdx lacks",
        where=folder / RULES_FILE,
        remedy="update kdx",
    )


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of the tokenizer in a checkpoint or an exported model, the one with its vocabulary first.

    A bare CLIP vocabulary is called as a whole tokenizer is in older folders, which have no file of rules.
    """
    whole, rules = folder / TOKENIZER_FILE, folder / RULES_FILE
    vocabulary = whole if whole.is_file() else folder / VOCABULARY
    return (vocabulary, rules) if rules.is_file() else (vocabulary,)
