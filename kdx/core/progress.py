"""How long work tells its caller how far it is, without knowing who shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Called after each piece of work. note: a few words that change with time, such as the current loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """The Progress that shows nothing."""


class Stages(Protocol):
    """Shows work that has several parts: called with the title of each, it gives the Progress of that part."""

    def __call__(self, title: str) -> AbstractContextManager[Progress]: ...


def silent_stages(title: str) -> AbstractContextManager[Progress]:
    """The Stages that show nothing."""
    return nullcontext(silent)
