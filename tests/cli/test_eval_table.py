"""Facts of kdx/cli/eval_table.py, with a model of random weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdx.bench import family
from kdx.cli.eval import command
from kdx.core.errors import UsageError
from kdx.data.shards import Sample, write_shards


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    write_shards(tmp_path / "data", "val", make_samples(6))
    return tmp_path / "data"


def _run(*args: object) -> Result:
    return CliRunner().invoke(command, ["--table", *map(str, args)], catch_exceptions=False)


def test_the_table_is_printed_and_written_with_its_picture(
    mini_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "compare_family", functools.partial(family.compare_family, seconds=0.01))
    out = tmp_path / "out"
    first = _run(mini_checkpoint, "--data", data, "--out", out)
    printed = first.stdout
    assert printed.startswith(
        "| Role | Network | Method | Teacher | recall@1 |"
    )  # the set has no class names
    assert printed.strip() == (out / "family.md").read_text().strip()
    assert json.loads((out / "family.json").read_text())["rows"][0]["network"] == "kdx-mini"
    assert "kdx-mini" in (out / "family.html").read_text()
    row = json.loads((out / "family.json").read_text())["rows"][0]
    times = {name: row[name] for name in ("ms", "text_ms")}
    monkeypatch.setattr(family, "_time", lambda members, *_: ({members[0].network_key: times}, 0.0))
    again = _run(mini_checkpoint, "--data", data, "--out", out)
    told = f"1 of 1 scores are those of {out / 'scores.json'}"
    assert told in again.stderr and told not in first.stderr


def test_a_server_is_no_run(data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _run("grpc://localhost:8001", "--data", data)
    assert caught.value.where == "grpc://localhost:8001"


def test_a_table_of_nothing_is_refused(data: Path) -> None:
    done = CliRunner().invoke(command, ["--table", "--data", str(data)])
    assert done.exit_code == 2 and "MODEL" in done.output
