"""Facts of kdx/core/provenance.py: what a product says of where it came from."""

import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import kdx
from kdx.core import provenance
from kdx.core.provenance import collect_provenance, cpu_count

# past the caches
_commit: Callable[[], str | None] = provenance._commit.__wrapped__
_gpu_names: Callable[[], list[str]] = provenance.gpu_names.__wrapped__


def test_the_record_is_json_and_holds_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/kdx", "export", "run"])
    record = collect_provenance(inputs={"data": "abc"}, seeds={"recipe": 3})
    assert json.loads(json.dumps(record)) == record
    assert record["inputs"] == {"data": "abc"} and record["seeds"] == {"recipe": 3}
    assert record["command"] == ["kdx", "export", "run"]  # no path of the machine
    assert record["kdx"] == kdx.__version__
    assert record["packages"]["torch"] and record["cpu_count"] == cpu_count() >= 1


def test_the_commit_is_that_of_the_checkout_and_changes_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    module = tmp_path / "kdx" / "__init__.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(kdx, "__file__", str(module))
    assert _commit() is None  # an installed package
    git("init", "-q")
    assert _commit() is None  # nothing is committed yet
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert _commit() == head
    module.write_text("changed\n")
    assert _commit() == f"{head}+changes"


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("echo NVIDIA H100; echo NVIDIA T4", ["NVIDIA H100", "NVIDIA T4"]),
        ("echo no driver; exit 9", []),
        ("true", []),
        ("exec /bin/sleep 60", []),
        (None, []),
    ],
)
def test_gpus_are_those_that_the_driver_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, names: list[str]
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "NVIDIA_SMI_TIMEOUT", 2.0)
    assert _gpu_names() == names


@pytest.mark.parametrize(
    ("argument", "shared"),
    [
        ("/home/ada/runs/student", "student"),
        ("/home/ada/my photos/", "my photos"),
        ("../../client-a/run", "run"),
        ("runs/client-a/student", "student"),
        ("~/data", "data"),
        ("--data=/home/ada/shards", "--data=shards"),
        ('data.teachers=["/home/ada/t1", "/home/ada/t2"]', 'data.teachers=["t1", "t2"]'),
        ("--json", "--json"),
        ("optimizer.lr=0.5", "optimizer.lr=0.5"),
        ("timm:vit_tiny+T", "timm:vit_tiny+T"),
        ("hf-hub:org/model", "hf-hub:org/model"),
        ("grpc://127.0.0.1:8001", "grpc://127.0.0.1:8001"),
    ],
)
def test_what_is_handed_on_tells_names_instead_of_paths(
    monkeypatch: pytest.MonkeyPatch, argument: str, shared: str
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/ada/.venv/bin/kdx", "export", argument])
    assert collect_provenance(shipped=True)["command"] == ["kdx", "export", shared]
    assert collect_provenance()["command"] == ["kdx", "export", argument]  # a run keeps all


def test_what_is_handed_on_does_not_tell_the_kernel() -> None:
    system = collect_provenance(shipped=True)["system"]
    assert platform.release() not in system and system.startswith(platform.system())
