"""Facts of bench/runtimes.py: exported models beside their checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdx.bench.runtimes import compare_runtimes, runtimes_table
from kdx.cli.bench import command
from kdx.core.errors import UsageError
from kdx.evaluate.speed import Case

CASES = (Case(1), Case(2, 7))


def test_an_exported_model_stands_beside_its_checkpoint(mini_checkpoint: Path, exported_model: Path) -> None:
    document = compare_runtimes([exported_model, mini_checkpoint], cases=CASES, seconds=0.01)
    (student,) = json.loads(json.dumps(document))["students"]
    reference, exported = student["models"]
    assert reference["runtime"] == "PyTorch eager" and reference["parity"] is None
    assert exported["runtime"] == "onnx fp32" and exported["parity"] == "PASS"
    assert reference["ratio"] == dict.fromkeys(reference["ms"], 1.0)
    for name, times in exported["ms"].items():
        assert exported["ratio"][name] == pytest.approx(reference["ms"][name]["min"] / times["min"])
    assert reference["max_abs"] == 0 and 0 < exported["max_abs"] < 1e-5
    assert exported["bytes"] == sum(file.stat().st_size for file in exported_model.glob("*.onnx"))
    table = runtimes_table(document)
    assert "onnx fp32" in table and table.count("|---") == 2 + len(CASES) + 4


def test_an_export_of_a_kdx_that_noted_no_sizes_is_compared_too(
    mini_checkpoint: Path, exported_model: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(exported_model, tmp_path / "old")
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["fields"]["sizes"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    document = compare_runtimes([mini_checkpoint, old], cases=CASES[:1], seconds=0.01)
    assert document["students"][0]["models"][1]["bytes"] > 0


def test_an_exported_model_without_its_checkpoint_is_refused(exported_model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compare_runtimes([exported_model])
    assert caught.value.where == str(exported_model)


def test_the_command_writes_both_files(mini_checkpoint: Path, exported_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "exports"
    arguments = ["runtimes", str(mini_checkpoint), str(exported_model), "--seconds", "0.1", "--out", str(out)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads((tmp_path / "exports.json").read_text())["threads"] == 1
    assert (tmp_path / "exports.md").read_text().strip() == done.stdout.strip()
