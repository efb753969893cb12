"""Facts of kdx/cli/export.py."""

import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import kdx
from kdx.bench.choice import compare_exports
from kdx.cli import main
from kdx.data.shards import Sample, write_shards

MakeSamples = Callable[..., list[Sample]]


def _run(*args: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.usefixtures("nothing_traced")
def test_too_few_images_end_with_their_own_code_unless_allowed(
    tmp_path: Path, mini_checkpoint: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "data", "val", make_samples(30))
    out = tmp_path / "out"
    asked = ["export", mini_checkpoint, "--data", tmp_path / "data", "--out", out]
    assert _run(*asked) == 6 and not out.exists()
    assert "269 are missing" in capsys.readouterr().err
    assert _run(*asked, "--allow-inconclusive") == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("INCONCLUSIVE")
    assert _run(*asked, "--allow-inconclusive") == 2
    assert "exists already" in capsys.readouterr().err
    assert _run(*asked, "--allow-inconclusive", "--overwrite", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["image"]["num_samples"] == 30 and report["verdict"] == "INCONCLUSIVE"


def test_what_is_shipped_tells_nothing_of_its_maker(
    tmp_path: Path, mini_checkpoint: Path, make_samples: MakeSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [(f"aunt Emmy's birthday {index}",) for index in range(12)]
    write_shards(tmp_path / "data", "val", make_samples(12, captions))
    exported, repository = tmp_path / "exported", tmp_path / "repository"
    export = [
        "export",
        mini_checkpoint,
        "--data",
        tmp_path / "data",
        "--out",
        exported,
        "--allow-inconclusive",
    ]
    for command in (export, ["serve", "build", exported, "--out", repository]):
        monkeypatch.setattr("sys.argv", ["/usr/bin/kdx", *map(str, command)])
        assert _run(*command) == 0
    files = [file for folder in (exported, repository) for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    places = (tmp_path, mini_checkpoint.parent, Path(kdx.__file__).parent.parent)
    private = [*map(str, places), "Emmy", platform.release()]
    for file in files:
        content = file.read_bytes()
        assert not [text for text in private if text.encode() in content], file
    report = json.loads((exported / "parity.json").read_text())
    assert set(report["worst_texts"]) <= set(range(12)) and len(report["worst_texts"]) == 10


def test_what_is_missing_is_named_before_any_work(
    tmp_path: Path, mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("export", mini_checkpoint, "--data", tmp_path, "--out", tmp_path / "out") == 4
    assert "there are no val shards" in capsys.readouterr().err
    assert (
        _run("export", mini_checkpoint, "--data", tmp_path, "--out", tmp_path / "o", "--format", "tensor")
        == 2
    )
    assert "known formats: onnx" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_traced")
def test_a_deferred_export_is_made_here_and_finished_on_the_machine_with_the_gpu(
    tmp_path: Path,
    mini_checkpoint: Path,
    make_samples: MakeSamples,
    fake_gpu: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shards(tmp_path / "data", "val", make_samples(30))
    deferred, out = tmp_path / "deferred", tmp_path / "out"
    make = ["export", mini_checkpoint, "--format", "trt", "--data", tmp_path / "data", "--out", deferred]
    assert _run(*make, "--defer") == 6 and not deferred.exists()
    assert _run(*make, "--defer", "--allow-inconclusive") == 0
    assert "kdx export --finish deferred" in capsys.readouterr().err
    assert _run("eval", deferred, "--data", tmp_path / "data") == 2  # it is no model yet
    assert _run("export", "--finish", deferred, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["image"]["num_samples"] == 30
    assert _run("query", "text", out, "a star", "--json") == 0
    assert _run("export", "--finish", deferred, "--out", out) == 2  # it exists already
    assert _run("info", deferred, "--json") == 0
    capsys.readouterr()
    for option in ("--defer", "--end-to-end", "--data=data", "--precision=fp16", "--format=onnx"):
        assert _run("export", "--finish", deferred, "--out", tmp_path / "other", option) == 2
        assert option.partition("=")[0] in capsys.readouterr().err
    manifest = json.loads((deferred / "manifest.json").read_text())
    manifest["fields"] = {}  # as if it had been made without --allow-inconclusive
    (deferred / "manifest.json").write_text(json.dumps(manifest))
    finish = ["export", "--finish", deferred, "--out", tmp_path / "allowed"]
    assert _run(*finish) == 6
    assert _run(*finish, "--allow-inconclusive") == 0


def test_end_to_end_needs_a_server_that_runs_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    asked = ["export", "checkpoint", "--data", tmp_path, "--out", tmp_path / "out", "--end-to-end"]
    assert _run(*asked, "--format", "openvino") == 5
    assert "kdx serve install --format openvino" in capsys.readouterr().err
    assert _run(*asked, "--precision", "int8", "--target", "trt") == 2


def test_without_tensorrt_nothing_is_begun_and_deferring_is_offered(
    tmp_path: Path, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    asked = ["export", mini_checkpoint, "--data", tmp_path, "--out", tmp_path / "o", "--format", "trt"]
    assert _run(*asked) == 5
    assert "tensorrt" in (said := capsys.readouterr().err) and "--defer" in said
    assert _run("export", mini_checkpoint, "--out", tmp_path / "o") == 2  # without --data
    assert _run(*asked[:-1], "onnx", "--defer") == 2


def test_int8_without_a_train_split_is_refused_before_any_work(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "data", "val", make_samples(6))
    out, no_checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    args = ["--data", tmp_path / "data", "--out", out, "--precision", "int8"]
    assert _run("export", no_checkpoint, *args) == 4
    error = capsys.readouterr().err
    assert "no train shards" in error and str(no_checkpoint) not in error


@pytest.mark.usefixtures("nothing_traced")
def test_an_export_tells_its_speed(
    tmp_path: Path, mini_checkpoint: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "data", "val", make_samples(6))
    out = tmp_path / "out"
    asked = ["export", mini_checkpoint, "--data", tmp_path / "data", "--out", out, "--allow-inconclusive"]
    assert _run(*asked) == 0
    assert "speed here, one thread: an image" in capsys.readouterr().err
    fields = json.loads((out / "manifest.json").read_text())["fields"]
    assert fields["speed"]["image"]["32"]["p50"] > 0 and fields["sizes"]["flops"]["text"] > 0
    assert _run("info", out) == 0
    assert "an image" in capsys.readouterr().out


def test_the_path_of_what_meets_the_budget_stands_alone_on_stdout(
    tmp_path: Path,
    exported_model: Path,
    make_samples: MakeSamples,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdx.bench.choice.compare_exports", partial(compare_exports, seconds=0.01))
    write_shards(tmp_path / "data", "val", make_samples(6))
    asked = ["export", exported_model, "--data", tmp_path / "data", "--out", tmp_path / "table", "--budget"]
    assert _run(*asked, "p95<=10000ms@batch=1") == 0
    assert capsys.readouterr().out == f"{exported_model}\n"
    document = json.loads((tmp_path / "table/exports.json").read_text())
    assert document["chosen"] == str(exported_model)
    assert "onnx fp32" in (tmp_path / "table/exports.md").read_text()
    assert "<svg" in (tmp_path / "table/exports.html").read_text()
    assert _run(*asked, "p50<=0.0001ms@batch=1") == 3
    shown = capsys.readouterr()
    assert shown.out == "" and str(exported_model) in shown.err.splitlines()[-2]
    assert _run(*asked, "fast") == 2


def test_a_table_exports_nothing_and_an_export_takes_one_checkpoint(tmp_path: Path) -> None:
    assert _run("export", "a", "b", "--data", "d", "--out", tmp_path / "out") == 2
    assert _run("export", "a", "b", "--data", "d", "--table", "--precision", "int8") == 2
    assert _run("export", "a", "--data", "d") == 2  # no --out
    assert _run("export", "a", "--table") == 2  # no --data
