"""Facts of the export: what a sealed model holds, and that planted faults do not pass the gate."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdx.core.errors import DataError, GateError, InconclusiveError, SetupError, UsageError
from kdx.export import candidate, onnx as onnx_builder, parity
from kdx.export.exported import export_checkpoint
from kdx.export.gate_inputs import GateInputs, prepare
from kdx.export.job import BuildJob
from kdx.export.parity import check_parity
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import Checkpoint, open_checkpoint
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.formats import LIMITS
from kdx.runtime.onnx import OnnxEncoder
from kdx.runtime.torch import TorchEncoder


@pytest.fixture
def checkpoint(mini_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(mini_checkpoint)


def test_the_report_holds_the_numbers_and_passes(exported_model: Path) -> None:
    report = open_exported_model(exported_model).parity()
    assert report["verdict"] == "PASS"
    for tower in ("image", "text"):
        assert 0 < report[tower]["max_abs"] <= report[tower]["needed_tolerance"] < 1e-5
        assert report[tower]["min_cosine"] > 0.999999
    assert report["top1_agreement"] == 1.0 and report["num_samples"] == 320


def test_the_file_leaks_no_path_and_says_what_it_is(exported_model: Path, checkpoint: Checkpoint) -> None:
    for name in ("image_encoder.onnx", "text_encoder.onnx"):
        content = (exported_model / name).read_bytes()
        assert str(Path(torch.__file__).parent).encode() not in content
        properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
        assert properties["kdx.model_digest"] == checkpoint.spec.model_digest


@pytest.mark.parametrize("batch", [1, 2, 5, 11])
def test_any_batch_and_length_equals_torch(exported_model: Path, checkpoint: Checkpoint, batch: int) -> None:
    random = np.random.default_rng(batch)
    pixels = random.standard_normal((batch, 3, 32, 32), dtype=np.float32)
    tokens = np.pad(random.integers(1, 49000, (batch, batch + 1)), ((0, 0), (1, 0)), constant_values=49406)
    tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=49407)
    with OnnxEncoder(open_exported_model(exported_model)) as onnx_encoder:
        torch_encoder = TorchEncoder(checkpoint)
        assert np.abs(onnx_encoder.encode_image(pixels) - torch_encoder.encode_image(pixels)).max() < 1e-5
        cut = onnx_encoder.encode_text(tokens)
        assert np.abs(cut - torch_encoder.encode_text(tokens)).max() < 1e-5
        padded = np.pad(tokens, ((0, 0), (0, 32 - tokens.shape[1])))
        assert np.abs(cut - onnx_encoder.encode_text(padded)).max() < 1e-5


@pytest.mark.parametrize("name", ["image_encoder.onnx", "parity.json", "config.json", "clip_vocabulary.json"])
def test_one_changed_byte_is_refused(exported_model: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported_model, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_exported_model(copy)
    assert caught.value.where == str(copy / name)


Fault = Callable[[Path], None]


def _perturb_weights(folder: Path) -> None:
    """One per cent of noise on every weight: what a wrong precision or a stale file does."""
    model = onnx.load(folder / "image_encoder.onnx")
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            weights = np.frombuffer(tensor.raw_data, dtype=np.float32)
            noise = random.normal(1, 0.01, weights.shape).astype(np.float32)
            tensor.raw_data = (weights * noise).tobytes()
    onnx.save(model, folder / "image_encoder.onnx")


def _swap_towers(folder: Path) -> None:
    shutil.copy(folder / "image_encoder.onnx", folder / "text_encoder.onnx")


def _fix_batch(folder: Path) -> None:
    model = onnx.load(folder / "image_encoder.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "image_encoder.onnx")


def _truncate(folder: Path) -> None:
    content = (folder / "text_encoder.onnx").read_bytes()
    (folder / "text_encoder.onnx").write_bytes(content[: len(content) // 2])


def _put_nan(folder: Path) -> None:
    model = onnx.load(folder / "text_encoder.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = np.full(len(weights.raw_data) // 4, np.nan, np.float32).tobytes()
    onnx.save(model, folder / "text_encoder.onnx")


@pytest.mark.parametrize(
    ("fault", "tier"),
    [
        (_perturb_weights, "numbers"),
        (_swap_towers, "structure"),
        (_fix_batch, "structure"),
        (_truncate, "structure"),
        (_put_nan, "shapes"),
    ],
)
def test_a_planted_fault_fails_the_gate_and_leaves_nothing(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    tier: str,
) -> None:
    _copy_instead_of_building(monkeypatch, exported_model, fault)
    with pytest.raises(GateError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", format="onnx", samples=parity_samples)
    assert f": {tier}: " in caught.value.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "owner", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", GateError, "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", GateError, "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", SetupError, "memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", SetupError, "SIGTERM"),
        ("import time; time.sleep(60)", SetupError, "suffice"),
        ("raise ValueError(7)", RuntimeError, "ValueError: 7"),
    ],
)
def test_a_child_that_dies_or_hangs_is_blamed_on_whom_it_belongs_to(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    owner: type[Exception],
    said: str,
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(candidate.sys, "executable", str(interpreter))
    _copy_instead_of_building(monkeypatch, exported_model)
    few = replace(parity_samples, images=parity_samples.images[:4], texts=parity_samples.texts[:4])
    monkeypatch.setattr(parity, "TIMEOUT", 2)
    with pytest.raises(owner) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", format="onnx", samples=few, allow_inconclusive=True)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


@pytest.mark.parametrize(
    ("fault", "owner"),
    [
        ("raise ImportError('libcudart.so.13')", SetupError),  # a provider or the package does not load
        ("raise MemoryError", SetupError),
        ("raise OSError(28, 'No space left on device')", SetupError),
    ],
)
def test_a_child_without_its_runtime_is_the_machines_fault(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    owner: type[Exception],
) -> None:
    broken = tmp_path / "site/onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(fault + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), *sys.path]))
    _copy_instead_of_building(monkeypatch, exported_model)
    few = replace(parity_samples, images=parity_samples.images[:4], texts=parity_samples.texts[:4])
    with pytest.raises(owner):
        export_checkpoint(checkpoint, tmp_path / "out", format="onnx", samples=few, allow_inconclusive=True)
    assert not (tmp_path / "out").exists()


def _copy_instead_of_building(
    monkeypatch: pytest.MonkeyPatch, exported_model: Path, fault: Fault = lambda _: None
) -> None:
    def build(job: BuildJob) -> dict[str, Any]:
        for name in ("image_encoder.onnx", "text_encoder.onnx"):
            shutil.copy(exported_model / name, job.folder / name)
        fault(job.folder)
        return {}

    monkeypatch.setattr(onnx_builder, "build_onnx", build)


def test_too_few_samples_are_refused_before_any_work_with_the_number_that_is_missing(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(job: BuildJob) -> dict[str, Any]:
        raise AssertionError("this was long work")

    monkeypatch.setattr(onnx_builder, "build_onnx", build)
    few = replace(parity_samples, images=parity_samples.images[:40], texts=parity_samples.texts[:40])
    with pytest.raises(InconclusiveError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", format="onnx", samples=few)
    assert caught.value.exit_code == 6
    assert "40 images" in caught.value.what and f"{299 - 40}" in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_an_inconclusive_model_is_kept_by_the_users_word_and_says_so(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _copy_instead_of_building(monkeypatch, exported_model)
    few = replace(parity_samples, images=parity_samples.images[:40], texts=parity_samples.texts[:40])
    model = export_checkpoint(checkpoint, tmp_path / "out", samples=few, allow_inconclusive=True)
    assert model.parity()["verdict"] == "INCONCLUSIVE" and model.manifest.fields["inconclusive_allowed"]
    (check,) = model.parity()["tiers"]["decisions"]["checks"]
    assert f"{299 - 40}" in check["detail"]
    assert not open_exported_model(exported_model).manifest.fields["inconclusive_allowed"]


def test_choices_that_turn_out_to_differ_too_often_to_tell_leave_nothing(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _copy_instead_of_building(monkeypatch, exported_model)
    few = replace(parity_samples, images=parity_samples.images[:299], texts=parity_samples.texts[:299])
    limits = replace(LIMITS["fp32"], tie=-1.0)  # every choice counts as another one
    with pytest.raises(GateError) as caught:
        export_checkpoint(
            checkpoint, tmp_path / "out", samples=few, limits=replace(limits, margin=0.999), overwrite=True
        )
    assert isinstance(caught.value, InconclusiveError)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused_before_any_work(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", format="onnyx", samples=parity_samples)
    assert "'onnyx'" in caught.value.what and "onnx" in str(caught.value.remedy)


def test_other_images_have_another_digest_of_inputs(
    checkpoint: Checkpoint, parity_samples: ParitySamples, exported_model: Path
) -> None:
    few = replace(parity_samples, images=parity_samples.images[:4], texts=parity_samples.texts[:4])
    turned = replace(few, images=[*few.images[1:], few.images[0]])
    with TorchEncoder(checkpoint) as reference:
        assert len({prepare(reference, each).digest for each in (few, few, turned)}) == 2


def test_inputs_that_were_kept_give_the_same_verdict(
    checkpoint: Checkpoint, parity_samples: ParitySamples, exported_model: Path, tmp_path: Path
) -> None:
    with TorchEncoder(checkpoint) as reference:
        inputs = prepare(reference, parity_samples)
    inputs.save(tmp_path / "inputs.npz")
    kept = GateInputs.load(tmp_path / "inputs.npz")
    assert kept.spec == inputs.spec and kept.digest == inputs.digest
    for own, read in ((inputs.requests, kept.requests), (inputs.expected, kept.expected)):
        assert list(own) == list(read) and all(np.array_equal(own[name], read[name]) for name in own)
    assert check_parity(kept, exported_model).to_dict() == check_parity(inputs, exported_model).to_dict()


def test_a_file_without_gate_inputs_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK no zip"):
        (tmp_path / "inputs.npz").write_bytes(content)
        with pytest.raises(DataError):
            GateInputs.load(tmp_path / "inputs.npz")
    np.savez(tmp_path / "inputs.npz", other=np.zeros(3))
    with pytest.raises(DataError):
        GateInputs.load(tmp_path / "inputs.npz")


@pytest.mark.parametrize(
    ("asked", "named"), [({"precision": "fp12"}, "fp12"), ({"target": "toaster"}, "toaster")]
)
def test_a_precision_or_target_that_the_format_lacks_is_refused_before_any_work(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path, asked: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", samples=parity_samples, **asked)
    assert named in caught.value.what and not list(tmp_path.iterdir())
