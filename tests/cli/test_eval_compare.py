"""Facts of kdx/cli/eval_compare.py, with models of random weights."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kdx.cli.eval import command
from kdx.cli.models import command as models
from kdx.core.errors import UsageError
from kdx.data.shards import Sample, write_shards


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "mini"
    CliRunner().invoke(models, ["init", "kdx-mini", "--out", str(out)], catch_exceptions=False)
    return out


@pytest.fixture
def twin(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "twin")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = []
    for row in range(12):
        encoded = io.BytesIO()
        Image.new("RGB", (32, 32), (20 * row, 100, 50)).save(encoded, "PNG")
        samples.append(Sample(f"{row:03d}", encoded.getvalue(), (f"picture {row}",), row % 7))
    write_shards(tmp_path / "shards", "val", samples)
    (tmp_path / "shards" / "classes.txt").write_text("".join(f"kind {i}\n" for i in range(7)))
    return tmp_path / "shards"


def _run(*args: object) -> Result:
    return CliRunner().invoke(command, list(map(str, args)), catch_exceptions=False)


def test_two_forms_of_one_model_score_the_same(model: Path, twin: Path, data: Path) -> None:
    lines = _run(model, twin, "--data", data).stdout.splitlines()
    assert lines[0].startswith("shards (val), 12 images; zero-shot: 12 images, 7 classes, ")
    assert f"A: {model} (kdx-mini, fp32, 32 px)" in lines and f"B: {twin} (kdx-mini, fp32, 32 px)" in lines
    top1 = next(line for line in lines if line.startswith("top-1 "))
    assert top1.split()[1] == top1.split()[3] and "0.0 (−24.2 … +24.2)" in top1 and top1.endswith(" 1")
    assert any(line.startswith("Top-1 agreement: the same class for 12 of 12 images") for line in lines)
    assert lines[-1] == "A and B are the same weights in two forms."


def test_json_and_files_hold_every_model_and_its_comparison_with_the_first(
    model: Path, twin: Path, data: Path, tmp_path: Path
) -> None:
    third = shutil.copytree(model, tmp_path / "third")
    done = _run(model, twin, third, "--data", data, "--out", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert [each["path"] for each in document["models"]] == [str(model), str(twin), str(third)]
    assert [each["second"] for each in document["comparisons"]] == [str(twin), str(third)]
    assert {each["first"] for each in document["comparisons"]} == {str(model)}
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table.count("| top-1 |") == 2 and table.count("| text → image recall@10 |") == 2


def test_a_model_given_twice_is_refused_before_anything_is_scored(model: Path, data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _run(model, f"{model}/../{model.name}", "--data", data)
    assert "twice" in caught.value.what


def test_files_are_for_several_models(model: Path, data: Path, tmp_path: Path) -> None:
    done = _run(model, "--data", data, "--out", tmp_path / "out")
    assert done.exit_code == 2 and not (tmp_path / "out").exists()


def test_a_comparison_that_cannot_be_written_is_told_all_the_same(
    model: Path, twin: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "comparison.md").mkdir(parents=True)  # where the file is to lie
    done = CliRunner().invoke(
        command, [*map(str, (model, twin)), "--data", str(data), "--out", str(tmp_path / "out")]
    )
    assert isinstance(done.exception, UsageError) and "Top-1 agreement: the same class for 12" in done.stdout


def test_processes_of_torchrun_print_the_comparison_of_one_once(model: Path, twin: Path, data: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    program = [sys.executable, "-c", "from kdx.cli import main; main()"]
    done = subprocess.run(
        [sys.executable, *launch, *program, "eval", model, twin, "--data", data, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = json.loads(_run(model, twin, "--data", data, "--json").stdout)
    assert json.loads(done.stdout)["comparisons"] == alone["comparisons"]
