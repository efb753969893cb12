"""Tokenizer: the contract that turns a text into a text tower's ids, whatever their kind."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ..digests import value_digest
from ..errors import DataError


class Tokenizer(ABC):
    """Text → ids. Safe to share between threads and processes: it can be pickled and survives a fork.

    kind: how it is named in an EncoderSpec. vocab_size: how many ids it has, from 0 on. pad_id: what a shorter text is
    filled with. digest: sha256 (hex) of all that decides on ids.
    """

    kind: ClassVar[str]
    vocab_size: int
    pad_id: int

    @functools.cached_property
    def digest(self) -> str:
        return value_digest(self._identity())

    @property
    @abstractmethod
    def start(self) -> tuple[int, ...]:
        """The ids that begin every text."""

    @property
    @abstractmethod
    def end(self) -> tuple[int, ...]:
        """The ids that end every text."""

    @abstractmethod
    def _identity(self) -> object:
        """All that decides on ids, as JSON has it."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes its files into the folder, from which open_tokenizer() opens it."""

    def encode(self, text: str, context_length: int) -> list[int]:
        """The ids with those of start and end, as the tokenizer has them; cut to context_length; never padded,
        which is EncoderSpec.pad's to do.

        Raises DataError if text is not a string, UsageError for a context_length without room.
        """
        return self.encode_and_tell(text, context_length)[0]

    @abstractmethod
    def encode_and_tell(self, text: str, context_length: int) -> tuple[list[int], bool]:
        """The same, and whether the text was longer and lost ids."""


def check_text(text: object) -> str:
    """Raises DataError for what is not a string: texts come from files and requests."""
    if not isinstance(text, str):
        raise DataError(f"a text is a {type(text).__name__}", remedy="give strings")
    return text
