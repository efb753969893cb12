"""The tokenizer in a folder, by the files that lie there."""

from __future__ import annotations

from pathlib import Path

from .base import Tokenizer
from .clip import VOCABULARY, ClipTokenizer

OLD_VOCABULARY = "tokenizer.json"  # in older folders; to other tools this name means a whole tokenizer


def open_tokenizer(folder: Path) -> Tokenizer:
    """That of a checkpoint or an exported model. Raises DataError if its files are missing or damaged."""
    return ClipTokenizer.from_file(tokenizer_files(folder)[0])


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of the tokenizer in a checkpoint or an exported model, the one with its vocabulary first."""
    old = folder / OLD_VOCABULARY
    return (old if old.is_file() else folder / VOCABULARY,)
