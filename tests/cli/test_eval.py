"""Facts of kdx/cli/eval.py, with a model of random weights."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kdx.cli.eval import command
from kdx.cli.models import command as models
from kdx.core.errors import DataError
from kdx.data.shards import Sample, write_shards
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "mini"
    CliRunner().invoke(models, ["init", "kdx-mini", "--out", str(out)], catch_exceptions=False)
    return out


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = []
    for row in range(12):
        encoded = io.BytesIO()
        Image.new("RGB", (32, 32), (20 * row, 100, 50)).save(encoded, "PNG")
        samples.append(Sample(f"{row:03d}", encoded.getvalue(), (f"picture {row}",), row % 7))
    write_shards(tmp_path, "val", samples)
    (tmp_path / "classes.txt").write_text("".join(f"kind {i}\n" for i in range(7)))
    return tmp_path


def _run(*args: object) -> Result:
    return CliRunner().invoke(command, list(map(str, args)), catch_exceptions=False)


def test_json_is_one_document_on_stdout(model: Path, data: Path) -> None:
    document = json.loads(_run(model, "--data", data, "--json").stdout)
    assert document["metric"] == "zero_shot_top1"
    assert document["num_images"] == 12
    assert document["zero_shot"]["top5"]["total"] == 12
    assert document["retrieval"]["protocol"] == "12 images × 12 captions"


def test_the_text_names_protocols_and_intervals(model: Path, data: Path) -> None:
    lines = _run(model, "--data", data, "--limit", 6).stdout.splitlines()
    assert lines[0] == "kdx-mini (fp32, 32 px), shards (val), 6 images"
    assert any(line.startswith("zero-shot: 6 images, 7 classes, ") for line in lines)
    assert "retrieval: 6 images × 6 captions, 1 caption an image" in lines
    assert sum("recall@" in line and "…" in line for line in lines) == 6
    assert sum(("mean rank" in line or "median rank" in line) and "…" in line for line in lines) == 4


def test_a_model_of_several_widths_has_a_row_for_each(data: Path, tmp_path: Path) -> None:
    architecture = read_architecture("kdx-mini")
    model, out = build_model(architecture, 0), tmp_path / "several"
    save_checkpoint(out, model, architecture, clip_tokenizer(), matryoshka_dims=(8, 64))
    lines = _run(out, "--data", data).stdout.splitlines()
    rows = lines[lines.index("by how many of the first dimensions, from the same embeddings") + 1 :]
    assert [row.split()[0] for row in rows] == ["8", "64"] and all("top-1" in row for row in rows)
    document = json.loads(_run(out, "--data", data, "--json").stdout)
    assert [row["dimensions"] for row in document["at_widths"]] == [8, 64]
    assert document["at_widths"][1]["top1"] == document["zero_shot"]["top1"]


def test_a_missing_split_is_bad_data(model: Path, data: Path) -> None:
    with pytest.raises(DataError) as caught:
        _run(model, "--data", data, "--split", "train")
    assert caught.value.where == str(data) and "train" in caught.value.what


def test_a_missing_model_is_bad_data(data: Path) -> None:
    with pytest.raises(DataError) as caught:
        _run(data / "nothing", "--data", data)
    assert caught.value.where == str(data / "nothing")


def test_processes_of_torchrun_print_the_score_of_one_once(model: Path, data: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    program = [sys.executable, "-c", "from kdx.cli import main; main()"]
    done = subprocess.run(
        [sys.executable, *launch, *program, "eval", model, "--data", data, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shared, alone = json.loads(done.stdout), json.loads(_run(model, "--data", data, "--json").stdout)
    assert shared["num_images"] == 12 and shared["zero_shot"] == alone["zero_shot"]


def test_list_shows_the_data_sets() -> None:
    lines = _run("--list").stdout.splitlines()
    assert any(line.startswith("imagenet-v2 ") and "ImageNet-V2" in line for line in lines)


def test_a_data_set_by_name(model: Path, data: Path, tmp_path: Path) -> None:
    for row in range(12):
        folder = tmp_path / "set" / ("cat" if row % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * row, 100, 50)).save(folder / f"{row}.png")
    (tmp_path / "names.txt").write_text("a tabby\na hound\n")
    result = _run(
        model, "--dataset", "folder", "--root", tmp_path / "set", "--classes", tmp_path / "names.txt"
    )
    assert result.stdout.splitlines()[0] == "kdx-mini (fp32, 32 px), folder, 12 images"
    assert "zero-shot: 12 images, 2 classes, 1 template" in result.stdout


def test_an_image_of_a_data_set_that_cannot_be_read_is_counted(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kdx.data.named.table import class_folders, find_set

    for folder in class_folders(find_set("objectnet")):  # its images are decoded to cut their frame
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32), "green").save(tmp_path / "images" / folder / "1.png")
    (tmp_path / "images/banana/1.png").write_bytes(b"an error page")
    lines = _run(model, "--dataset", "objectnet", "--root", tmp_path).stdout.splitlines()
    assert lines[0] == "kdx-mini (fp32, 32 px), objectnet, 112 images"
    assert lines[1] == "left out: 1 image that cannot be read or decoded"
    assert "images/banana/1.png" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --data SHARDS, or --dataset NAME with --root DIR"),
        (["--data", "shards", "--dataset", "wds"], "give either --data"),
        (["--dataset", "wds"], "--root is missing"),
        (["--dataset", "wds", "--root", "r", "--split", "train"], "--split goes with --data"),
        (["--data", "shards", "--classes", "names.txt"], "go with --dataset"),
    ],
)
def test_options_that_do_not_go_together(model: Path, arguments: list[str], message: str) -> None:
    result = _run(model, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
