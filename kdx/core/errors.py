"""Errors that a user sees: what went wrong, where, and what to do about it.

KdxError                      1  a bug in kdx (only as a base class; nothing raises it directly)
├── UsageError                2  the command, recipe or configuration asks for what cannot be
├── GateError                 3  a gate (parity, accuracy) did not pass
│   └── InconclusiveError     6  it cannot: the samples are too few to decide
├── DataError                 4  a file, shard, exported model or request is bad
└── SetupError                5  the machine lacks something: package, binary, hardware, port, space
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .urls import shown


class KdxError(Exception):
    """One fault, said in one line, with its remedy.

    what: the fault itself. where: the file, key, URL or sample at fault. remedy: what the user can do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else shown(where)
        self.remedy = remedy
        super().__init__(what if self.where is None else f"{self.where}: {what}")

    def to_dict(self) -> dict[str, str | None]:
        """The error as JSON, for another process: class, what, where, remedy."""
        return {
            "class": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
        }

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> KdxError:
        """The error that `to_dict` described, with its class, so that its owner stays the same across processes.

        Raises KeyError or TypeError if `fields` is no such description.
        """
        where, remedy = fields["where"], fields["remedy"]
        if not isinstance(fields["what"], str) or not all(
            v is None or isinstance(v, str) for v in (where, remedy)
        ):
            raise TypeError(f"not an error of kdx: {fields}")
        return _KINDS[fields["class"]](fields["what"], where=where, remedy=remedy)


class UsageError(KdxError):
    """The command, recipe or configuration asks for what cannot be."""

    exit_code = 2


class GateError(KdxError):
    """A gate did not pass; nothing was written."""

    exit_code = 3


class InconclusiveError(GateError):
    """A gate cannot decide on the samples that it was given; nothing was written."""

    exit_code = 6


class DataError(KdxError):
    """A file, shard, exported model or request is bad."""

    exit_code = 4


class SetupError(KdxError):
    """The machine lacks a package, a binary, hardware, a port or space."""

    exit_code = 5


def beginning(text: str, length: int = 60) -> str:
    """As much of a value as an error may show, in one line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1] + "…"


_KINDS = {
    kind.__name__: kind
    for kind in (KdxError, UsageError, GateError, InconclusiveError, DataError, SetupError)
}
