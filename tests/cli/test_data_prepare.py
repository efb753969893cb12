"""Facts of cli/data_prepare.py: what is handed on, and what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdx.cli.data import command
from kdx.data import prepare as room
from kdx.data.prepare import DISTRIBUTORS, Prepared, Settings

FAILED = {"HTTP 404 (Not Found)": 30, "timed out": 12}
PREPARED = Prepared("/data/cc3m", 142, 100, FAILED, 3, "cc3m.tsv:17", True, 1, 2_340_000, 61.4)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = [PREPARED]

    def prepare(path: Path, out: Path, settings: Settings, **more: Any) -> Prepared:
        calls.append((path, out, settings))
        return calls[0]

    monkeypatch.setattr(room, "prepare", prepare)
    return calls


def test_the_outcome_is_told_with_what_failed_and_why(called: list[Any]) -> None:
    result = CliRunner().invoke(command, ["prepare", "cc3m.tsv", "--out", "cc3m"], catch_exceptions=False)
    assert result.stdout == "cc3m\n"
    assert result.stderr.splitlines() == [
        "100 of 142 images (70.4%) in 1 shards, 2.3 MB, 61 s",
        "failed: 30 × HTTP 404 (Not Found), 12 × timed out",
        "left out: 3 rows without a URL or a caption, the first at cc3m.tsv:17",
        "next: kdx data info cc3m",
    ]
    called[0] = replace(PREPARED, failed={}, left_out=0, captions=False)
    result = CliRunner().invoke(command, ["prepare", "urls.txt", "--out", "x"], catch_exceptions=False)
    assert "the list has no captions, so the samples have none" in result.stderr
    result = CliRunner().invoke(command, ["prepare", "a", "--out", "x", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["got"] == 100


def test_what_follows_the_dashes_goes_to_img2dataset(called: list[Any]) -> None:
    words = ["--timeout", "20", "--encode-quality=90", "--disable_all_reencoding"]
    CliRunner().invoke(
        command,
        ["prepare", "a.tsv", "--out", "x", "--image-size", "256", "--", *words],
        catch_exceptions=False,
    )
    path, out, settings = called[1]
    assert (path, out, settings.image_size, settings.distributor) == (
        Path("a.tsv"),
        Path("x"),
        256,
        "multiprocessing",
    )
    assert settings.typed == {"timeout": "20", "encode_quality": "90", "disable_all_reencoding": "True"}


def test_a_word_that_is_no_option_is_refused(called: list[Any]) -> None:
    result = CliRunner().invoke(command, ["prepare", "a.tsv", "b.tsv", "--out", "x"])
    assert result.exit_code == 2 and "'b.tsv' is no option of img2dataset" in result.stderr
    assert len(called) == 1


def test_the_choices_are_what_there_is() -> None:
    (option,) = (each for each in command.commands["prepare"].params if each.name == "distributor")  # type: ignore[attr-defined]
    assert set(option.type.choices) == set(DISTRIBUTORS)  # type: ignore[attr-defined]
