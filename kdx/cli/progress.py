"""Progress on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdx.core.progress import Progress

PLAIN_INTERVAL = 10.0  # seconds between lines where stderr is not a terminal


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Shows one piece of work; the yielded function is the Progress to hand to it."""
    show = _bar if sys.stderr.isatty() else _lines
    with show(title) as progress:
        yield progress


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Progress]:
    columns = (
        TextColumn("  {task.description:<22}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=None, note="")

        def progress(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield progress


@contextlib.contextmanager
def _lines(title: str) -> Iterator[Progress]:
    start = last = time.monotonic()

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < PLAIN_INTERVAL:
            return
        last = now
        left = (now - start) / max(done, 1) * (total - done)
        print(f"  {title}: {done}/{total}, {left:.0f} s left {note}".rstrip(), file=sys.stderr, flush=True)

    yield progress
