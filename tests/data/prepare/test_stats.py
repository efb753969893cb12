"""Facts of data/prepare/stats.py: what img2dataset and urllib say becomes few reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdx.data.prepare.stats import read_stats, reason, stats_files


@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("HTTP Error 404: Not Found", "HTTP 404 (Not Found)"),
        ("HTTP Error 530: ", "HTTP 530"),
        ("<urlopen error [Errno -2] Name or service not known>", "host not found"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "host not found"),
        ("<urlopen error timed out>", "timed out"),
        ("The read operation timed out", "timed out"),
        ("<urlopen error [Errno 111] Connection refused>", "connection refused"),
        ("Remote end closed connection without response", "connection closed"),
        ("<urlopen error [Errno 101] Network is unreachable>", "network unreachable"),
        ("IncompleteRead(613 bytes read, 614 more expected)", "cut short"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] hostname 'x.example' …>", "no secure connection"),
        ("Image decoding error", "not an image"),
        ("image too small", "image too small"),
    ],
)
def test_a_reason_has_nothing_of_the_url(words: str, short: str) -> None:
    assert reason(words) == short


def test_counts_are_read_by_reason(tmp_path: Path) -> None:
    stats = {
        "count": 7,
        "successes": 3,
        "status_dict": {
            "success": 3,
            "IncompleteRead(1 bytes read, 9 more expected)": 1,
            "IncompleteRead(2 bytes read, 8 more expected)": 1,
            "HTTP Error 404: Not Found": 2,
        },
    }
    path = tmp_path / "00012_stats.json"
    path.write_text(json.dumps(stats))
    counts = read_stats(path)
    assert counts is not None and (counts.rows, counts.got) == (7, 3)
    assert counts.failed == {"cut short": 2, "HTTP 404 (Not Found)": 2}
    assert stats_files(tmp_path) == {12: path}


@pytest.mark.parametrize(
    "text", ["", '{"count": 7, "succ', "[]", '{"count": 7, "successes": 3, "status_dict": []}']
)
def test_counts_that_are_not_whole_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "00000_stats.json"
    path.write_text(text)
    assert read_stats(path) is None
