"""Facts of `kdx serve` without a server; tests/serve/test_supervisor.py starts and ends a real one."""

import shutil
import socket
from pathlib import Path

import pytest

from kdx.cli import main
from kdx.serve.repository import open_repository
from kdx.serve.served_model import read_models


def _run(*args: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *map(str, args)])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_build_writes_a_repository_and_names_the_next_step(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "repository"
    assert _run("build", exported_model, "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n" and f"next: kdx serve up {out}" in shown.err
    assert open_repository(out).fields == {"backend": "python", "device": "cpu", "format": "onnx"}
    assert _run("build", exported_model, "--out", out) == 2
    assert f"error: {out}: " in capsys.readouterr().err
    assert _run("build", exported_model, "--out", out, "--overwrite") == 0


@pytest.mark.parametrize("verb", ["build", "up"])
def test_a_checkpoint_is_not_served_and_what_is_needed_is_said(
    verb: str, mini_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "out") if verb == "build" else ("--log", tmp_path / "log", "--port", 0)
    assert _run(verb, mini_checkpoint, *options) == 2
    shown = capsys.readouterr()
    assert f"remedy: kdx export {mini_checkpoint} --data" in shown.err
    assert not shown.out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["build", "up"])
def test_a_path_where_nothing_lies_is_bad_data(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "out") if verb == "build" else ("--log", tmp_path / "log")
    assert _run(verb, tmp_path / "nowhere", *options) == 4
    assert f"error: {tmp_path / 'nowhere'}: " in capsys.readouterr().err


def test_a_damaged_repository_is_not_served(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("build", exported_model, "--out", tmp_path / "repository") == 0
    shutil.rmtree(tmp_path / "repository" / "models" / "zero_shot")
    assert _run("up", tmp_path / "repository", "--log", tmp_path / "log", "--port", 0) == 4
    assert f"error: {tmp_path}/repository/models/zero_shot/1/model.py: " in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


def test_build_writes_for_a_backend_of_the_container_and_names_where_it_runs(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--backend", "onnxruntime", "--device", "gpu", "--instances", 5, "--out", tmp_path / "out")
    assert _run("build", exported_model, *options) == 0
    assert "docs/serving.md" in capsys.readouterr().err
    counts = {model.name: model.instances for model in read_models(tmp_path / "out/models")}
    assert (counts["embed_image"], counts["image_encoder"]) == (5, 2)
    assert _run("up", tmp_path / "out", "--log", tmp_path / "log", "--port", 0) == 2
    assert "docs/serving.md" in capsys.readouterr().err and not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--backend", "tensorrt", "--device", "gpu"), "--format trt"),
        (("--backend", "tensorrt"), "--format trt"),
    ],
)
def test_a_backend_that_cannot_run_the_format_writes_nothing(
    exported_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    named: str,
) -> None:
    assert _run("build", exported_model, *options, "--out", tmp_path / "out") == 2
    assert named in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(
    exported_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdx.serve.supervisor.gpu_names", list)
    log = tmp_path / "log"
    assert _run("up", exported_model, "--device", "gpu", "--log", log, "--port", 0) == 5
    assert "--device cpu" in capsys.readouterr().err
    assert _run("build", exported_model, "--device", "gpu", "--out", tmp_path / "out") == 0  # for elsewhere
    assert _run("up", tmp_path / "out", "--log", log, "--port", 0) == 5
    assert "shows none" in capsys.readouterr().err and not log.exists()


@pytest.mark.parametrize("option", [("--device", "cpu"), ("--instances", "3")])
def test_a_repository_has_its_layout_already(
    exported_model: Path, tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("build", exported_model, "--out", tmp_path / "out") == 0
    assert _run("up", tmp_path / "out", *option, "--log", tmp_path / "log", "--port", 0) == 2
    assert option[0] in capsys.readouterr().err


def test_installing_for_a_format_that_there_is_not_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run("install", "--format", "onxx") == 2
    assert "onnx" in capsys.readouterr().err


def test_a_host_is_refused_with_the_way_to_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("up", "exported", "--host", "0.0.0.0") == 2
    assert "docs/serving.md" in capsys.readouterr().err


def test_a_user_without_a_home_is_told_of_kdx_cache(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home(*_: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("KDX_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    for command in (("install",), ("up", exported_model, "--port", 0)):
        assert _run(*command) == 5
        assert "remedy: set KDX_CACHE" in capsys.readouterr().err
    monkeypatch.setattr(
        "platformdirs.user_cache_path", lambda *_: Path("~/.cache/kdx")
    )  # as older versions answer
    assert _run("install") == 5


def test_up_without_triton_says_how_to_get_one(
    exported_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _run("up", exported_model, "--log", tmp_path / "log", "--port", 0) == 5
    assert "remedy: run `kdx serve install`" in capsys.readouterr().err
    assert not list(tmp_path.glob("kdx-serve-*"))  # the repository that it made for itself


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_checking_a_port_where_nobody_answers_exits_5(
    capsys: pytest.CaptureFixture[str], json: tuple[str, ...]
) -> None:
    with socket.socket() as bound:  # bound, so that nobody else listens there, and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{bound.getsockname()[1]}"
        assert _run("check", url, *json) == 5
    shown = capsys.readouterr()
    assert f"error: {url}: " in shown.err and "kdx serve up" in shown.err and not shown.out


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("check", "http://localhost:8000"), "http://localhost:8000"),
        (("check",), "'URL'"),
        (("build", "exported"), "'--out'"),
        (("up", "exported", "--port", "70000"), "'--port'"),
        (("stop",), "stop"),
    ],
)
def test_wrong_arguments_are_usage_errors(
    args: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*args) == 2
    assert what in capsys.readouterr().err
