"""Facts of kdx/runtime/formats.py: a format is one record, and a package outside kdx adds one by an entry point."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.errors import GateError, SetupError, UsageError
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.formats import BUILT_IN, LIMITS, find_format, format_names

TOY = '''
"""A format outside kdx: each tower's ONNX file, gzipped."""

import gzip
import tempfile
from dataclasses import replace
from pathlib import Path

from kdx.core.tokenizers import open_tokenizer
from kdx.export.onnx import build_onnx
from kdx.export.report import Check
from kdx.runtime.formats import LIMITS, Format, find_format

FORMAT = Format(
    name="toy", suffix=".gz", precisions={"fp32": LIMITS["fp32"]}, targets=("cpu",), builder="toy_format:build",
    opener="toy_format:open_toy", structure="toy_format:check_structure", machine="toy_format:check_machine",
    packages=("onnxruntime",),
)

def build(job):
    build_onnx(job)
    for file in sorted(job.folder.glob("*.onnx")):
        file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes(), 1))
        file.unlink()
    return {"level": 1}

def open_toy(model, *, num_threads=None):
    assert model.options == {"level": 1}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("image_encoder", "text_encoder"):
            (Path(folder) / f"{name}.onnx").write_bytes(gzip.decompress((model.path / f"{name}.gz").read_bytes()))
        open_tokenizer(model.path).save(Path(folder))
        encoder = replace(model, path=Path(folder), format=find_format("onnx")).open(num_threads=num_threads)
        encoder.embed_texts(["sessions are made on their first use"])
        encoder.encode_image(__import__("numpy").zeros((1, 3, 32, 32), dtype="float32"))
    return encoder

def check_structure(folder, spec, precision):
    magic = [(folder / name).read_bytes()[:2] for name in ("image_encoder.gz", "text_encoder.gz")]
    return [Check.holds("both are gzip files", "" if set(magic) == {b"\\x1f\\x8b"} else "one is not")]

def check_machine(precision, target):
    pass
'''


# A runtime that does at once what KDX_TOY_DOES says
BAD = """
import os, signal
from kdx.core.errors import DataError, SetupError
from kdx.export.report import Check
from kdx.runtime.formats import LIMITS, Format

FORMAT = Format(
    name="toy", suffix=".bad", precisions={"fp32": LIMITS["fp32"]}, targets=("cpu",), builder="toy_format:build",
    opener="toy_format:open_toy", structure="toy_format:check_structure", machine="toy_format:check_machine",
    packages=(),
)

def build(job):
    for name in ("image_encoder.bad", "text_encoder.bad"):
        (job.folder / name).write_bytes(b"weights")
    return {}

def open_toy(model, *, num_threads=None):
    exec(os.environ["KDX_TOY_DOES"])

def check_structure(folder, spec, precision):
    return [Check.holds("there are files")]

def check_machine(precision, target):
    pass
"""


def _install(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with this module and one entry point, for this process and its children."""
    site = tmp_path / "site"
    (site / "toy_format-1.0.dist-info").mkdir(parents=True)
    (site / "toy_format.py").write_text(module)
    (site / "toy_format-1.0.dist-info/METADATA").write_text("Name: toy-format\nVersion: 1.0\n")
    (site / "toy_format-1.0.dist-info/entry_points.txt").write_text(
        "[kdx.formats]\ntoy = toy_format:FORMAT\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "toy_format", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(kdx.__file__).parent.parent}")
    return site


def test_a_package_adds_a_format_by_one_module_and_one_entry(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(TOY, tmp_path, monkeypatch)
    checkpoint, out = open_checkpoint(mini_checkpoint), tmp_path / "toy"
    with traced_before():
        exported = export_checkpoint(checkpoint, out, format="toy", samples=parity_samples)
    assert sorted(file.name for file in out.glob("*.gz")) == ["image_encoder.gz", "text_encoder.gz"]
    assert exported.parity()["verdict"] == "PASS"  # by the gate's own child process
    assert exported.manifest.fields["format"] == "toy"
    assert exported.manifest.fields["sizes"]["bytes"].keys() == {"image_encoder.gz", "text_encoder.gz"}
    with kdx.load(out) as toy, kdx.load(mini_checkpoint) as torch:
        difference = np.abs(toy.embed_texts(["a star."]) - torch.embed_texts(["a star."])).max()
        assert 0 < difference < 1e-5
    assert "toy" in format_names()
    # without the package the folder says what is missing
    code = (
        f"import kdx, kdx.core.errors as errors\n"
        f"try:\n    kdx.load({str(out)!r})\nexcept errors.DataError as error:\n    print(error.what)"
    )
    root = str(Path(kdx.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert "'toy'" in done.stdout


@pytest.mark.parametrize(
    ("does", "error", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", GateError, "SIGSEGV"),
        ("raise DataError('is no graph')", GateError, "is no graph"),
        ("os.kill(os.getpid(), signal.SIGKILL)", SetupError, "memory"),
        ("raise SetupError('there is no driver')", SetupError, "there is no driver"),
        ("1 / 0", RuntimeError, "ZeroDivisionError"),
    ],
)
def test_whose_fault_a_failure_is_crosses_the_gates_process_for_any_runtime(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    error: type[Exception],
    said: str,
) -> None:
    _install(BAD, tmp_path, monkeypatch)
    monkeypatch.setenv("KDX_TOY_DOES", does)
    with pytest.raises(error, match=said):
        export_checkpoint(
            open_checkpoint(mini_checkpoint), tmp_path / "out", format="toy", samples=parity_samples
        )
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("format_", BUILT_IN, ids=lambda format_: format_.name)
def test_every_part_that_a_record_names_is_there(format_: object) -> None:
    for part in ("builder", "opener", "structure", "machine"):
        assert callable(pkgutil.resolve_name(getattr(format_, part)))


@pytest.mark.parametrize("format_", BUILT_IN, ids=lambda format_: format_.name)
def test_limits_come_from_the_one_table(format_: object) -> None:
    assert all(LIMITS[name] is limits for name, limits in format_.precisions.items())  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_format_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError) as caught:
        find_format("onx")
    assert "onnx" in str(caught.value.remedy)
