"""What commands print on stdout: JSON for programs, tables for people; valid whatever the terminal speaks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 10_000  # columns: a program that reads a table gets whole lines
MIN_WIDTH = 40  # columns: in fewer, rich would leave out whole columns of a table


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """One JSON document in ASCII or UTF-8, which every parser takes.

    A byte of a file name that is not UTF-8 becomes text such as `\\udce9`; a number that is not finite becomes null.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    ascii_only = not encoding.lower().startswith("utf")
    click.echo(json.dumps(_valid(document), indent=indent, ensure_ascii=ascii_only, allow_nan=False))


def save_document(stem: Path, document: Any, **texts: str) -> None:
    """STEM.json, and STEM.md, STEM.html … of the texts by their suffix; the folder is made. Raises SetupError."""
    from kdx.core.errors import SetupError
    from kdx.core.folders import write_atomic

    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"a folder cannot be made here: {error.strerror}", where=stem.parent, remedy="choose another path"
        ) from None
    for suffix, text in {"json": json.dumps(document, indent=2), **texts}.items():
        write_atomic(stem.with_name(f"{stem.name}.{suffix}"), text.rstrip() + "\n")


def tell_document(document: dict[str, Any], table: str, out: Path | None, as_json: bool) -> None:
    """Prints it as JSON or as its table; with `out` saves both, as OUT.json and OUT.md."""
    if out is not None:
        save_document(out, document, md=table)
    if as_json:
        print_json(document)
    else:
        click.echo(table.rstrip())


def print_table(table: Table) -> None:
    """As wide as the terminal; in a pipe, every row is one line without trailing spaces."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
        console.print(table)
        return
    console.width = PIPE_WIDTH
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def write_what_cannot_be_encoded_as_escapes() -> None:
    """A terminal that knows no `→` shows `\\u2192` instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def _valid(value: Any) -> Any:
    """`value` with text that UTF-8 can carry and numbers that JSON knows."""
    if isinstance(value, Mapping):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(item) for item in value]
    if isinstance(value, (str, Path)):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
