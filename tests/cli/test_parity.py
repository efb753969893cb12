"""Facts of kdx/cli/parity.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.cli import main
from kdx.data.shards import Sample, write_shards
from kdx.serve.supervisor import TritonServer


def _run(*args: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., list[Sample]]) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_shards(folder, "val", make_samples(300))
    return folder


def test_two_forms_of_one_model_pass_and_are_drawn(
    mini_checkpoint: Path,
    exported_model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert _run("parity", mini_checkpoint, exported_model, "--data", data, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "PASS" and report["precision"] == "fp32"
    assert json.loads((out / "parity.json").read_text()) == report
    page = (out / "parity.html").read_text()
    assert page.count("<figure>") == 3 and page.count('class="pair"') == 300
    assert "PASS" in page and "http" not in page.replace("http-equiv", "")


def test_too_few_images_end_with_their_own_code(
    mini_checkpoint: Path, exported_model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--data", data, "--samples", "20")
    assert _run("parity", mini_checkpoint, exported_model, *few) == 6
    assert "279 are missing" in capsys.readouterr().out
    assert _run("parity", mini_checkpoint, exported_model, *few, "--precision", "fp12") == 2


def test_another_model_fails(mini_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert _run("models", "init", "kdx-mini", "--seed", "3", "--out", tmp_path / "other") == 0
    assert _run("parity", mini_checkpoint, tmp_path / "other", "--data", data, "--samples", "20") == 3


def test_a_server_is_compared_with_its_checkpoint(
    mini_checkpoint: Path, triton_server: TritonServer, data: Path
) -> None:
    assert _run("parity", mini_checkpoint, triton_server.url, "--data", data) == 0


@pytest.mark.usefixtures("nothing_traced")
def test_export_serves_the_model_and_adds_the_tier_to_its_report(
    mini_checkpoint: Path, triton_server: TritonServer, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert _run("export", mini_checkpoint, "--data", data, "--out", out, "--end-to-end") == 0
    tier = json.loads((out / "parity.json").read_text())["tiers"]["end_to_end"]
    assert tier["verdict"] == "PASS" and any(
        check["name"] == "served, image max_abs" for check in tier["checks"]
    )
