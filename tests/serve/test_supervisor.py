"""Facts of serve/supervisor.py and repository.py on real servers: starting, failing, stopping."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2  # pyright: ignore[reportMissingTypeStubs]

from kdx.core.errors import DataError, GateError, SetupError
from kdx.core.folders import sealed_folder
from kdx.runtime.triton import TritonConnection
from kdx.serve.environment import find_triton
from kdx.serve.layout import INSTANCES, ZERO_SHOT_INSTANCES
from kdx.serve.probe import probe
from kdx.serve.repository import KIND, open_repository, write_repository
from kdx.serve.supervisor import TritonServer

STUBS = 2 * INSTANCES + ZERO_SHOT_INSTANCES


@pytest.fixture(scope="module")
def repository(exported_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(exported_model, tmp_path_factory.mktemp("repository") / "repository")


def test_configurations_follow_tritons_schema(repository: Path) -> None:
    names = set()
    for file in repository.glob("models/*/config.pbtxt"):
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())  # pyright: ignore[reportAttributeAccessIssue]
        assert config.name == file.parent.name and config.backend == "python"
        names.add(config.name)
    assert names == {"embed_image", "embed_text", "zero_shot"}


def test_the_servers_code_needs_neither_torch_nor_pydantic(repository: Path) -> None:
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'pydantic', 'open_clip', 'tritonclient', 'click']))\n"
        "import kdx.runtime.onnx, kdx.runtime.triton_requests, kdx.core.requests, kdx.serve.triton_models\n"
        "print(kdx.__file__)"
    )
    python = find_triton().path / "python"
    done = subprocess.run(
        [python, "-c", script], cwd=repository / "python", capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(repository / "python/kdx/__init__.py"), done.stderr


def test_a_changed_repository_is_not_served(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    with (copy / "models/embed_text/1/model.py").open("a") as file:
        file.write("\nimport os\n")
    with pytest.raises(DataError) as caught:
        open_repository(copy)
    assert caught.value.where == str(copy / "models/embed_text/1/model.py")


def test_a_model_that_failed_its_gate_is_not_served(exported_model: Path, tmp_path: Path) -> None:
    with sealed_folder(tmp_path / "failed", "exported-model") as folder:
        for file in exported_model.iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, folder)
        report = json.loads((folder / "parity.json").read_text())
        (folder / "parity.json").write_text(json.dumps({**report, "verdict": "FAIL"}))
    with pytest.raises(GateError) as caught:
        write_repository(tmp_path / "failed", tmp_path / "repository")
    assert caught.value.where == str(tmp_path / "failed" / "parity.json")
    assert not (tmp_path / "repository").exists()


def test_a_failure_inside_the_block_stops_the_server_which_leaves_no_processes_or_shared_memory(
    repository: Path, tmp_path: Path
) -> None:
    processes: list[psutil.Process] = []
    regions: list[Path] = []
    server = TritonServer(repository, tmp_path / "log")
    with pytest.raises(ZeroDivisionError), server:
        triton = psutil.Process(server.pid)
        processes += [triton, *triton.children(recursive=True)]
        regions += server._shared_memory
        _probe(server)
        raise ZeroDivisionError
    assert len(processes) - 1 == len(regions) == STUBS
    assert not any(process.is_running() for process in processes)
    assert not any(region.exists() for region in regions)


def test_a_log_that_cannot_be_written_is_the_machines_fault(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError) as caught, TritonServer(repository, tmp_path / "file" / "log"):
        pass
    assert caught.value.where == str(tmp_path / "file")


@pytest.mark.parametrize(("model", "end"), [("embed_text", signal.SIGSTOP), ("zero_shot", signal.SIGKILL)])
def test_an_instance_that_dies_or_stops_is_noticed_and_the_rest_is_stopped(
    repository: Path, tmp_path: Path, model: str, end: signal.Signals
) -> None:
    with TritonServer(repository, tmp_path / "log") as server:
        assert server.pid
        stubs = server.stubs
        regions = list(server._shared_memory)
        stubs[model][-1].send_signal(end)  # the others still answer
        with pytest.raises(SetupError) as caught:
            server.watch()
        assert model in caught.value.what
    _, alive = psutil.wait_procs([stub for own in stubs.values() for stub in own], timeout=20)
    assert not alive
    assert not any(region.exists() for region in regions)


def test_a_port_in_use_is_said_before_anything_starts(repository: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SetupError) as caught,
            TritonServer(repository, tmp_path / "log", port=port),
        ):
            pass
    assert str(port) in caught.value.what and not (tmp_path / "log").exists()


def test_a_model_that_does_not_load_is_named_with_the_reason(repository: Path, tmp_path: Path) -> None:
    with sealed_folder(tmp_path / "broken", KIND) as folder:
        shutil.copytree(repository, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        (folder / "models/embed_text/1/model.py").write_text("raise RuntimeError('boom')\n")
    with (
        pytest.raises(SetupError) as caught,
        TritonServer(tmp_path / "broken", tmp_path / "log"),
    ):
        pass
    assert "boom" in caught.value.what and caught.value.where == str(tmp_path / "log")


def test_without_triton_the_way_to_get_one_is_said(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    with (
        pytest.raises(SetupError) as caught,
        TritonServer(repository, tmp_path / "log"),
    ):
        pass
    assert caught.value.remedy == "run `kdx serve install`"


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_serve_up_ends_its_server_however_it_ends(
    exported_model: Path, tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", "from kdx.cli import main; main()", "serve", "up", str(exported_model)]
    with subprocess.Popen(
        [*command, "--instances", "1", "--port", "0", "--log", str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=_interruptible,
    ) as serving:
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline().startswith("grpc://127.0.0.1:")
            children = psutil.Process(serving.pid).children(recursive=True)
            serving.send_signal(stop)
            assert serving.wait(30) == code
        finally:
            serving.kill()
    assert len(children) == 1 + 2 + ZERO_SHOT_INSTANCES
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    if stop != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["log"]


def _probe(server: TritonServer) -> None:
    connection = TritonConnection(server.url)
    probe(connection, server.models)
    connection.close()


def _interruptible() -> None:
    """Run in the child: where the tests run in the background of a shell, Ctrl-C is ignored in all they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
