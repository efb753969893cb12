"""What img2dataset counts of each shard, in `00000_stats.json`: rows, images, and the failures in words of its own."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kdx.core.errors import beginning

SUCCESS = "success"
REASONS = (  # what urllib, OpenCV and img2dataset say → the reason that is counted
    (r"HTTP Error (\d+)(?:: (.+))?", r"HTTP \1 (\2)"),
    (r"timed out", "timed out"),
    (r"\[Errno -\d\]|getaddrinfo|name resolution", "host not found"),
    (r"Connection refused", "connection refused"),
    (r"Connection reset|Remote end closed|Connection aborted|Broken pipe", "connection closed"),
    (r"Network is unreachable|No route to host", "network unreachable"),
    (r"IncompleteRead|cut short", "cut short"),
    (r"CERTIFICATE|SSL|TLS", "no secure connection"),
    (r"X-Robots-Tag", "use not allowed (X-Robots-Tag)"),
    (r"decoding error|OpenCV", "not an image"),
)


@dataclass
class Counts:
    """rows: that were tried. failed: reason → rows."""

    rows: int = 0
    got: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Counts) -> None:
        self.rows += other.rows
        self.got += other.got
        self.failed.update(other.failed)


def stats_files(folder: Path) -> dict[int, Path]:
    """By the number of the shard."""
    return {int(path.name.split("_")[0]): path for path in sorted(folder.glob("[0-9]*_stats.json"))}


def read_stats(path: Path) -> Counts | None:
    """None if the file is not whole, as while it is being written."""
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        counts = Counts(int(stats["count"]), int(stats["successes"]))
        for words, times in stats["status_dict"].items():
            if words != SUCCESS:
                counts.failed[reason(words)] += times
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return counts


def reason(words: str) -> str:
    """The words without what differs from one URL to the next."""
    for pattern, short in REASONS:
        if found := re.search(pattern, words):
            return found.expand(short).replace(" ()", "")
    return beginning(words)
