"""What `kdx demo` shows: a heading for each stage with the time left in all, and the last screen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from kdx.core.urls import shown

PRIOR = (
    10.0  # seconds at the usual pace that are counted in, so that a first stage of no time decides nothing
)


@dataclass(frozen=True)
class Stage:
    """usual: its seconds on two cores; None if that depends on what the user gave."""

    name: str
    about: str
    usual: float | None


class Screen:
    """Headings, commands and results go to stderr; the last screen goes to stdout."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.seconds: dict[str, float] = {}
        self.commands: list[tuple[str, str]] = []
        self._stages = {stage.name: stage for stage in stages}
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage: its heading before, its seconds noted after."""
        number = list(self._stages).index(name)
        left = self.estimate_left()
        self._console.print(
            f"\n[bold cyan]{number + 1}/{len(self._stages)} {name}[/]  {escape(self._stages[name].about)}"
            + ("" if left is None else f"  [dim]({_minutes(left)} left)[/]")
        )
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def estimate_left(self) -> float | None:
        """The usual seconds of the stages to come, scaled by how long those behind took; None if one is not known."""
        usual = {name: stage.usual for name, stage in self._stages.items()}
        ahead = [seconds for name, seconds in usual.items() if name not in self.seconds]
        behind = {
            name: seconds for name, seconds in usual.items() if name in self.seconds and seconds is not None
        }
        pace = (PRIOR + sum(self.seconds[name] for name in behind)) / (PRIOR + sum(behind.values()))
        return None if None in ahead else pace * sum(seconds or 0.0 for seconds in ahead)

    def command(self, title: str, command: str) -> None:
        """The shell command that does the same as what follows."""
        command = shown(command)  # what it says may be a URL with a password
        self.commands.append((title, command))
        self._console.print(f"  [green]$[/] [dim]{escape(command)}[/]", soft_wrap=True)

    def say(self, text: str) -> None:
        self._console.print(f"  {escape(text)}", soft_wrap=True)

    def end(self, out: Path, report: dict[str, Any]) -> None:
        """What was made, where, and what to type next."""
        console = Console(highlight=False)
        console.print()
        console.print(Panel(_results(report), title="kdx demo", title_align="left", expand=False))
        places = Table.grid(padding=(0, 2))
        for what, where in (
            ("report with pictures", "report.html"),
            ("the small teacher", "teacher"),
            ("the student alone, and taught with CLIP-KD", "baseline  distilled"),
            ("the taught student as ONNX, and how it compares with PyTorch", "exported"),
            ("Triton model repository", "repository"),
        ):
            made = [str(out / part) for part in where.split() if (out / part).exists()]
            if made:
                places.add_row(what, "  ".join(made))
        console.print(places)
        console.print("\nnext:")
        for _, command in self.commands:
            if command.startswith(("kdx serve up", "kdx query")):
                console.print(f"  {escape(command)}", soft_wrap=True)
        console.print(f"  open {out / 'report.html'} in a browser", soft_wrap=True)


def _results(report: dict[str, Any]) -> Table:
    accuracy, latency = report["accuracy"], report["latency_ms"]
    table = Table.grid(padding=(0, 2))
    for run, title in (
        ("teacher", "teacher"),
        ("baseline", "student alone"),
        ("distilled", "student with CLIP-KD"),
    ):
        parameters = report["models"][run]["parameters"]
        table.add_row(
            title, f"{100 * accuracy[run]:.1f} % {accuracy['metric']}", f"{parameters / 1e6:.2f} M parameters"
        )
    parity = report["parity"]
    table.add_row(
        "parity of the export",
        parity["verdict"],
        f"differs by at most {max(parity[side]['max_abs'] for side in ('image', 'text')):.1g}",
    )
    for runtime, title in (("torch", "PyTorch"), ("onnx", "ONNX Runtime"), ("triton", "Triton")):
        one, eight = latency[runtime]["1"], latency[runtime]["8"]
        table.add_row(
            title,
            f"p50 {one['p50']:.2f} ms for 1 image",
            f"{eight['p50']:.2f} ms for 8, p95 {eight['p95']:.2f}",
        )
    table.add_row("time", _minutes(sum(report["seconds"].values())), "")
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
