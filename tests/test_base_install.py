"""Facts of the plain installation: it asks servers without torch, and names the extra that other work needs."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdx.core.extras import PARQUET, REMOTE, TRAIN

if TYPE_CHECKING:
    from kdx.serve.supervisor import TritonServer

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
BASE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def _without_extras(code: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a Python that has only what the plain installation brings."""
    hidden = ",".join([*TRAIN, *PARQUET, *REMOTE, "onnxruntime"])
    return subprocess.run(
        [sys.executable, "-c", BASE + code, hidden, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def _kdx(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return _without_extras("from kdx.cli import main\nmain(sys.argv[2:])", *args)


def test_a_server_is_asked(triton_server: TritonServer) -> None:
    asked = _kdx("query", "text", triton_server.url, "a dog", "--json")
    assert asked.returncode == 0, asked.stderr
    (row,) = json.loads(asked.stdout)
    assert row["input"] == "a dog" and sum(x * x for x in row["embedding"]) == pytest.approx(1, abs=1e-5)


def test_an_exported_model_becomes_a_repository(exported_model: Path, tmp_path: Path) -> None:
    built = _kdx("serve", "build", exported_model, "--out", tmp_path / "repository")
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("models",),
        ("import", "weights.pt", "--out", "OUT"),
        ("query", "text", "CHECKPOINT", "a dog"),
        ("distill", "demo-baseline", "--data", "SET", "--out", "OUT"),
        ("export", "CHECKPOINT", "--data", "SET", "--out", "OUT"),
    ],
)
def test_a_command_that_needs_more_names_the_extra(
    args: tuple[str, ...], mini_checkpoint: Path, tmp_path: Path
) -> None:
    places = {"CHECKPOINT": mini_checkpoint, "OUT": tmp_path / "out", "SET": tmp_path / "set"}
    if "SET" in args:
        assert _kdx("data", "synthetic", tmp_path / "set", "--train", "8", "--val", "8").returncode == 0
    done = _kdx(*(places.get(arg, arg) for arg in args))
    assert done.returncode == 5
    error, remedy = done.stderr.splitlines()[-2:]
    assert "kdx[train]" in error and "pip install 'kdx[train,cpu]'" in remedy
    assert not (tmp_path / "out").exists()


def test_load_names_the_extra_of_a_checkpoint(mini_checkpoint: Path) -> None:
    code = "import kdx\ntry: kdx.load(sys.argv[2])\nexcept kdx.core.errors.SetupError as error: print(error.remedy)"
    assert "kdx[train,cpu]" in _without_extras(code, mini_checkpoint).stdout


def test_load_names_the_extra_of_an_exported_model(exported_model: Path) -> None:
    code = "import kdx\ntry: kdx.load(sys.argv[2]).embed_texts(['a'])\n"
    code += "except kdx.core.errors.SetupError as error: print(error.remedy)"
    assert "kdx[cpu]" in _without_extras(code, exported_model).stdout


@pytest.mark.slow
def test_a_fresh_environment_asks_a_server(wheel: Path, triton_server: TritonServer, tmp_path: Path) -> None:
    """The wheel and what it declares, installed by pip from its index."""
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv/bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "-q", "-c", CONSTRAINTS, wheel], check=True)
    listed = subprocess.run(
        [binaries / "python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    installed = {package["name"].replace("-", "_") for package in json.loads(listed.stdout)}
    assert not installed & {"torch", "torchvision", "open_clip_torch", "timm", "onnx", "onnxruntime"}
    asked = subprocess.run(
        [binaries / "kdx", "query", "text", triton_server.url, "a dog"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0 and asked.stdout.endswith("a dog\n"), asked.stderr


def test_parquet_names_its_extra(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    refused = _kdx("data", "convert", tmp_path / "a.parquet", "--out", tmp_path / "out")
    assert refused.returncode == 5, refused.stderr
    assert "remedy: pip install 'kdx[parquet]'" in refused.stderr and not (tmp_path / "out").exists()


def test_a_set_at_a_url_names_the_extra() -> None:
    done = _kdx("data", "index", "https://127.0.0.1:1/0.tar")
    assert done.returncode == 5 and "pip install 'kdx[remote]'" in done.stderr.splitlines()[-1]
