"""What a run writes while it runs: log lines on stderr and numbers in `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def configure_logging(*, verbose: bool = False) -> None:
    """Log lines of kdx to stderr: warnings, with `verbose` everything."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("kdx").setLevel(logging.DEBUG if verbose else logging.WARNING)


class MetricsLog:
    """Appends one JSON object a line; each line is flushed, so a killed run loses at most the last one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **numbers: Any) -> None:
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file, in order."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
