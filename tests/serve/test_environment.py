"""Facts of serve/environment.py: where Triton is looked for, and what is said when it is not there."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kdx.cli.serve import command
from kdx.core import environments
from kdx.core.environments import COMPLETE
from kdx.core.errors import SetupError
from kdx.serve import environment
from kdx.serve.environment import (
    INSTALL,
    REQUIREMENTS,
    find_triton,
    install_triton,
    shared_memory_shortage,
)

PYTHON: dict[str, Any] = {
    "executable": "/opt/python3.11",
    "version": "3.11",
    "library": "libpython3.11.so.1.0",
    "loads": False,
    "libdir": "/opt/lib",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and one interpreter on the machine."""
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "interpreter_facts", lambda executable: PYTHON)
    return tmp_path / "cache"


def _commands(monkeypatch: pytest.MonkeyPatch, *, fail_at: int | None = None) -> list[list[str]]:
    """Instead of running commands, make the files that they would make."""
    commands: list[list[str]] = []

    def run(command: list[str], failure: str, remedy: str) -> None:
        commands.append(command)
        if len(commands) == fail_at:
            raise SetupError(failure)
        if "venv" in command:
            triton = Path(command[-1]) / "lib/python3.11/site-packages/pytriton/tritonserver"
            for name in (
                "backends/python/libtriton_python.so",
                "backends/python/triton_python_backend_utils.py",
                "python_backend_stubs/3.11/triton_python_backend_stub",
            ):
                (triton / name).parent.mkdir(parents=True, exist_ok=True)
                (triton / name).write_text(name)

    monkeypatch.setattr(environments, "run_command", run)
    return commands


def test_without_triton_it_is_said_how_to_get_one(cache: Path) -> None:
    with pytest.raises(SetupError) as caught:
        find_triton()
    assert caught.value.remedy == "run `kdx serve install`"
    assert caught.value.where is not None and Path(caught.value.where).parent == cache


def test_an_installation_is_made_once_and_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _commands(monkeypatch)
    folder, made = install_triton()
    assert made and folder.parent == cache
    assert [command[0] for command in commands] == ["/opt/python3.11", str(folder / "bin/python")]
    pinned = {line for line in REQUIREMENTS.read_text().splitlines() if "==" in line}
    assert pinned <= set(commands[1]) and "--no-deps" in commands[1]
    assert install_triton() == (folder, False) and len(commands) == 2
    triton = find_triton()
    assert triton.server == folder / "lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver"
    assert triton.path == folder / "bin" and triton.library_path == "/opt/lib"
    assert {file.name for file in (triton.backends / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
    }
    assert f"nvidia-pytriton=={triton.source.split()[-1]}" in REQUIREMENTS.read_text()


@pytest.mark.parametrize("step", [1, 2])
def test_an_interrupted_installation_is_not_taken_for_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    _commands(monkeypatch, fail_at=step)
    with pytest.raises(SetupError):
        install_triton()
    with pytest.raises(SetupError) as caught:
        find_triton()
    assert caught.value.remedy == INSTALL.format(options="")
    _commands(monkeypatch)
    assert install_triton()[1] and find_triton()


def test_a_wheel_without_the_stub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "interpreter_facts", lambda executable: {**PYTHON, "version": "3.12"})
    _commands(monkeypatch)  # makes a stub for 3.11 alone
    with pytest.raises(SetupError) as caught:
        install_triton()
    assert "python_backend_stubs/3.12/triton_python_backend_stub" in str(caught.value.where)
    with pytest.raises(SetupError) as caught:
        find_triton()
    assert caught.value.remedy == INSTALL.format(options="")


def test_other_requirements_and_pythons_have_their_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {environment._environment_folder(version, []) for version in ("3.11", "3.12", "3.11")}
    (tmp_path / "requirements.txt").write_text("nvidia-pytriton==0.0\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert len({*folders, environment._environment_folder("3.11", [])}) == 3


def test_a_runner_that_needs_other_packages_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _commands(monkeypatch)
    install_triton()
    with pytest.raises(SetupError) as caught:
        find_triton("openvino")
    assert caught.value.remedy == "run `kdx serve install --format openvino`"
    assert install_triton("openvino")[1] and find_triton("openvino") != find_triton()
    added = set(commands[-1][1:]) - set(commands[1])
    assert len(added) == 1 and added.pop().startswith("openvino") and "--no-deps" not in commands[-1]


def test_on_a_gpu_onnx_runtime_is_that_for_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _commands(monkeypatch)
    install_triton("onnx", "gpu")
    packages = [each for each in commands[-1] if each.startswith("onnxruntime")]
    assert len(packages) == 1 and packages[0].startswith("onnxruntime-gpu[cuda,cudnn]")
    with pytest.raises(SetupError) as caught:
        find_triton()
    assert caught.value.remedy == "run `kdx serve install`"


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cu13"])
def test_a_server_gets_the_tensorrt_that_engines_are_built_with_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / f"{name.replace('-', '_')}-11.4.0.106.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {name}\nVersion: 11.4.0.106\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert f"{name}==11.4.0.106" in environment.runner_requirements("trt", "gpu")


def test_the_first_interpreter_that_the_stub_can_use_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Any] = {
        sys.executable: {**PYTHON, "version": "3.13", "executable": "too new"},
        "python3.11": {**PYTHON, "libdir": None, "executable": "static"},
        "python3.12": {**PYTHON, "libdir": None, "loads": True, "version": "3.12", "executable": "good"},
    }
    monkeypatch.setattr(environments, "interpreter_facts", known.get)
    assert environment._choose_python()["executable"] == "good"
    del known["python3.12"]
    with pytest.raises(SetupError) as caught:
        environment._choose_python()
    assert "libpython3.11.so.1.0" in caught.value.what
    assert "apt install libpython3.11" in str(caught.value.remedy)
    del known["python3.11"]
    with pytest.raises(SetupError) as caught:
        environment._choose_python()
    assert caught.value.where == sys.executable and "python3.11" in str(caught.value.remedy)


def test_every_requirement_is_pinned() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert lines and all(line.count("==") == 1 for line in lines)


def test_a_cache_folder_that_cannot_be_written_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SetupError) as caught:
        install_triton()
    assert caught.value.where == str(tmp_path / "file" / "cache") and "KDX_CACHE" in str(caught.value.remedy)


def test_a_shortage_of_shared_memory_is_told_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 * 2**20))
    assert shared_memory_shortage(64 * 2**20) is None
    shortage = shared_memory_shortage(256 * 2**20)
    assert shortage and "64 MiB" in shortage and "256 MiB" in shortage and "--shm-size" in shortage
    monkeypatch.setattr(environment, "SHARED_MEMORY", tmp_path / "nowhere")
    assert shared_memory_shortage(1)


def test_the_command_says_whether_it_installed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _commands(monkeypatch)
    for now in (True, False):
        result = CliRunner().invoke(command, ["install", "--json"], catch_exceptions=False)
        answer = json.loads(result.stdout)
        assert answer["installed_now"] is now and (Path(answer["environment"]) / COMPLETE).is_file()
