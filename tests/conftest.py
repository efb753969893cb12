"""Small factories that several rooms' tests use."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

# Torch's threads wait for each other in a loop: on busy cores, beside decoding threads and a server, toy models
# train many times slower with two of them than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from kdx.export.samples import ParitySamples
    from kdx.serve.supervisor import TritonServer

import kdx.models  # noqa: F401  from here on torchvision imports, for the tests that ask open_clip itself
from kdx.data.shards import Sample

ROOT = Path(__file__).parent.parent
FAKES, FAKED = ROOT / "tests/fakes", {"cuda", "tensorrt"}
DATA = ROOT.parent / "shared" / "data"  # real photos, where a machine has them


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the tests (`-n`), a file stays with one of them, for the sake of its fixtures, and
    all files that ask the session's Triton with the same one, so that it is started once."""
    from xdist.scheduler import LoadFileScheduling

    class OneTriton(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "triton" if file in asking else file

    files = (ROOT / "tests").rglob("test_*.py")
    asking = {str(file.relative_to(ROOT)) for file in files if "triton_server" in file.read_text()}
    return OneTriton(config, log)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """What a test draws does not depend on the tests before it in its process."""
    import torch

    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that are marked for hardware skip where it is not."""
    from kdx.core.provenance import gpu_names

    if item.get_closest_marker("gpu") and not gpu_names():
        pytest.skip("there is no NVIDIA GPU")
    if item.get_closest_marker("trt") and importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """The folder with the real sets; a test that asks for it skips where there is none."""
    if not DATA.is_dir():
        pytest.skip("the real photo sets are not on this machine")
    return DATA


def photo(seed: int, size: int = 40, kind: str = "JPEG") -> bytes:
    """A smooth random image as an encoded file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((size, size + 6), Image.Resampling.BICUBIC).save(file, kind, quality=90)
    return file.getvalue()


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., bytes]:
    return photo


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., list[Sample]]:
    """make_samples(count, captions=None): labelled samples of three classes."""

    def make(count: int, captions: list[tuple[str, ...]] | None = None) -> list[Sample]:
        texts = captions or [(f"caption number {index}",) for index in range(count)]
        return [Sample(f"s{index:04d}", photo(index), texts[index], index % 3) for index in range(count)]

    return make


@pytest.fixture(scope="session")
def mini_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kdx-mini checkpoint with random weights."""
    from kdx.models.architectures import build_model, read_architecture
    from kdx.models.checkpoint import save_checkpoint
    from kdx.models.clip_vocabulary import clip_tokenizer

    path = tmp_path_factory.mktemp("mini") / "checkpoint"
    architecture = read_architecture("kdx-mini")
    save_checkpoint(path, build_model(architecture, 0), architecture, clip_tokenizer())
    return path


@pytest.fixture(scope="session")
def parity_samples() -> ParitySamples:
    from kdx.export.samples import ParitySamples

    classes = ("circle", "square", "star")
    return ParitySamples([photo(seed) for seed in range(320)], [f"text {n}" for n in range(320)], classes)


@pytest.fixture(scope="session")
def exported_model(mini_checkpoint: Path, parity_samples: ParitySamples) -> Path:
    """The ExportedModel of mini_checkpoint."""
    from kdx.export.exported import export_checkpoint
    from kdx.models.checkpoint import open_checkpoint

    path = mini_checkpoint.parent / "exported"
    export_checkpoint(open_checkpoint(mini_checkpoint), path, format="onnx", samples=parity_samples)
    return path


@pytest.fixture(scope="session")
def traced_before(exported_model: Path) -> Callable[[], AbstractContextManager[None]]:
    """A block in which the fp32 towers of mini_checkpoint are taken from exported_model where they would be traced.

    That takes seconds, and gives the same bytes each time (tests/export/test_onnx.py).
    """
    import torch

    from kdx.export import onnx as builder
    from kdx.models.checkpoint import Checkpoint
    from kdx.runtime.exported_model import open_exported_model

    spec, trace = open_exported_model(exported_model).spec, builder.export_towers

    def export_towers(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        if checkpoint.spec != spec or dtype != torch.float32:
            return trace(checkpoint, folder, dtype)
        for tower in builder.TOWERS:
            shutil.copy(exported_model / f"{tower}.onnx", folder)
        return None

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builder, "export_towers", export_towers)
            yield

    return block


@pytest.fixture
def nothing_traced(traced_before: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """The test as such a block."""
    with traced_before():
        yield


@pytest.fixture
def fake_gpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TensorRT and CUDA of tests/fakes, here and in child processes, with a cache folder of their own."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KDX_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(ROOT)]))
    monkeypatch.syspath_prepend(str(FAKES))
    for name in [name for name in sys.modules if name.partition(".")[0] in FAKED]:
        monkeypatch.delitem(sys.modules, name)
    yield cache
    for name in [name for name in sys.modules if name.partition(".")[0] in FAKED]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def triton_server(exported_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real Triton that serves exported_model."""
    from kdx.serve.repository import write_repository
    from kdx.serve.supervisor import TritonServer

    folder = tmp_path_factory.mktemp("triton")
    write_repository(exported_model, folder / "repository")
    with TritonServer(folder / "repository", folder / "triton.log") as server:
        yield server


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's files, so that the build leaves nothing in the tree."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    copy = tmp_path_factory.mktemp("source")
    for name in sorted(set(listed.stdout.split("\0")[:-1])):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of `source`."""
    out = tmp_path_factory.mktemp("wheel")
    script = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", script, out], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.iterdir()
    return path
