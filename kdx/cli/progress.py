"""Progress on stderr: a bar with the time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator

from kdx.core.progress import Progress

PLAIN_INTERVAL = 5.0  # seconds between lines where stderr is not a terminal


@contextlib.contextmanager
def show_progress(title: str) -> Generator[Progress]:
    """Shows one piece of work; the yielded function is the Progress to hand to it."""
    show = _bar if sys.stderr.isatty() else _lines
    with show(title) as progress:
        yield progress


@contextlib.contextmanager
def _bar(title: str) -> Generator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress as RichProgress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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
def _lines(title: str) -> Generator[Progress]:
    """A thread writes the lines, so that a log also lives while one long piece of work reports nothing."""
    start = time.monotonic()
    state = (0, 0, "")
    ended = threading.Event()

    def write() -> None:
        done, total, note = state
        seconds = time.monotonic() - start
        if done:
            text = f"{done}/{total}, {seconds / done * (total - done):.0f} s left {note}"
        else:
            text = f"{seconds:.0f} s so far"
        print(f"  {title}: {text}".rstrip(), file=sys.stderr, flush=True)

    def write_regularly() -> None:
        while not ended.wait(PLAIN_INTERVAL):
            write()

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal state
        state = (done, total, note)

    writer = threading.Thread(target=write_regularly, daemon=True)
    writer.start()
    try:
        yield progress
    finally:
        ended.set()
        writer.join()
    if state[0]:
        write()
