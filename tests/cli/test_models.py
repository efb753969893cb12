"""Facts of kdx/cli/models.py."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdx.cli.models import command
from kdx.models.checkpoint import open_checkpoint


def test_json_lists_every_architecture_with_its_counts() -> None:
    listed = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["ViT-T-16"] == {
        "name": "ViT-T-16",
        "image_params": 5_622_912,
        "text_params": 40_493_185,
        "total_params": 46_116_097,
        "image_size": 224,
        "tokens": 77,
        "text_padding": "longest",
        "tokenizer": "CLIP",
        "needs": [],
        "about": by_name["ViT-T-16"]["about"],
    }
    assert by_name["ViT-B-16-SigLIP"]["needs"] == ["the tokenizer timm/ViT-B-16-SigLIP"]
    assert by_name["nllb-clip-base"]["needs"][-1] == "kdx[hf]"


def test_all_models_of_open_clip_are_listed_and_counted() -> None:
    result = CliRunner().invoke(command, [])
    assert "154 architectures, among them 144 of the 144 models of open_clip 3.3" in result.stderr


@pytest.mark.parametrize("seed", [0, 5])
def test_init_writes_a_checkpoint_that_opens(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "mini"
    result = CliRunner().invoke(command, ["init", "kdx-mini", "--seed", str(seed), "--out", str(out)])
    assert result.stdout.strip() == str(out)
    assert open_checkpoint(out).spec.name == "kdx-mini"


def test_a_seed_that_torch_cannot_take_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        command, ["init", "kdx-mini", "--seed", str(2**64), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 2 and "not in the range" in result.output


def test_json_is_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--json", "init", "kdx-mini", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and "--json is for the list, not for init" in result.output
    assert not (tmp_path / "x").exists()


def test_in_a_pipe_every_architecture_is_one_line() -> None:
    names = [each["name"] for each in json.loads(CliRunner().invoke(command, ["--json"]).stdout)]
    lines = CliRunner().invoke(command, []).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *names]
