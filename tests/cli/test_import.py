"""Facts of kdx/cli/import_.py and of its inverse in kdx/cli/models.py."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import kdx
from kdx.cli import main


def _run(*args: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_there_and_back(mini_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    assert _run("models", "save-open-clip", mini_checkpoint, "--out", theirs) == 0
    captured = capsys.readouterr()
    weights = theirs / "open_clip_model.safetensors"
    assert captured.out.strip() == str(weights)
    assert f'open_clip.create_model("kdx-mini", pretrained="{weights}")' in captured.err

    assert _run("import", weights, "--out", back) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(back)
    assert "architecture: kdx-mini" in captured.err and "not in the weights, taken:" in captured.err
    with kdx.load(mini_checkpoint) as before, kdx.load(back) as after:
        assert (before.embed_texts(["a photo"]) == after.embed_texts(["a photo"])).all()

    assert _run("import", weights, "--out", back) == 2
    assert "exists already" in capsys.readouterr().err
    assert _run("import", theirs, "--out", back, "--overwrite", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["architecture"] == report["spec"]["name"] == "kdx-mini" and report["assumptions"] == []


class Executes:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_code_in_a_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Executes(tmp_path / "trace")}, tmp_path / "x.pt")
    assert _run("import", tmp_path / "x.pt", "--out", tmp_path / "out") == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "may run code" in lines[0] and "remedy:" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_mistyped_tag_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("import", "ViT-B-32:opnai", "--out", tmp_path / "out") == 2
    assert "did you mean ViT-B-32:openai?" in capsys.readouterr().err
