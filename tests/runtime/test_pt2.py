"""Facts of kdx/runtime/pt2.py and export/pt2.py: towers compiled by AOTInductor, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdx
from kdx.core import cpu
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.export.exported import export_checkpoint
from kdx.export.pt2 import check_pt2
from kdx.export.report import Verdict
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime import pt2
from kdx.runtime.exported_model import ExportedModel
from kdx.runtime.pt2 import Pt2Encoder, check_kind_of_machine, check_machine, kind_of_machine
from kdx.runtime.torch import TorchEncoder

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def model(mini_checkpoint: Path, parity_samples: ParitySamples) -> ExportedModel:
    checkpoint, out = open_checkpoint(mini_checkpoint), mini_checkpoint.parent / "exported-pt2"
    return export_checkpoint(checkpoint, out, format="pt2", samples=parity_samples)


@pytest.fixture(scope="module")
def encoder(model: ExportedModel) -> Iterator[Pt2Encoder]:
    with Pt2Encoder(model, num_threads=1) as encoder:
        yield encoder


def _pixels(encoder: Pt2Encoder, count: int) -> np.ndarray:
    size = encoder.spec.image_size
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def test_an_exported_model_passes_the_gate_and_is_what_load_opens(model: ExportedModel) -> None:
    assert model.parity()["verdict"] == "PASS"
    with kdx.load(model.path) as opened:
        assert isinstance(opened, Pt2Encoder)


def test_batch_and_length_are_free(encoder: Pt2Encoder, mini_checkpoint: Path) -> None:
    context, vocabulary = encoder.spec.context_length, encoder.spec.vocab_size
    with TorchEncoder.open(mini_checkpoint) as reference:
        for count in (1, 2, 3, 7, 0):
            pixels = _pixels(encoder, count)
            np.testing.assert_allclose(
                encoder.encode_image(pixels), reference.encode_image(pixels), rtol=0, atol=1e-5
            )
            for length in (2, 3, 12, context - 1, context):
                tokens = np.random.default_rng(count).integers(1, vocabulary - 2, (count, length))
                tokens[:, -1] = vocabulary - 1
                np.testing.assert_allclose(
                    encoder.encode_text(tokens), reference.encode_text(tokens), rtol=0, atol=1e-5
                )


def test_a_batch_above_the_packages_is_cut(model: ExportedModel, encoder: Pt2Encoder) -> None:
    with Pt2Encoder(replace(model, options={**model.options, "max_batch": 2})) as cut:
        pixels = _pixels(encoder, 5)
        np.testing.assert_allclose(cut.encode_image(pixels), encoder.encode_image(pixels), rtol=0, atol=1e-6)


def test_it_runs_without_model_code(model: ExportedModel) -> None:
    script = """
import sys, kdx
with kdx.load(sys.argv[1]) as encoder:
    encoder.embed_texts(["a"])
print(sorted({"kdx.models", "open_clip", "timm", "kdx.export"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(model.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_bare_package_and_an_edited_one_are_never_opened(
    model: ExportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor

    def run(*_: Any) -> None:
        raise AssertionError("code of the package ran")

    monkeypatch.setattr(torch._inductor, "aoti_load_package", run)
    with pytest.raises(DataError):
        kdx.load(model.image_encoder)
    edited = tmp_path / "edited"
    shutil.copytree(model.path, edited)
    with (edited / "image_encoder.pt2").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError) as caught:
        kdx.load(edited)
    assert "image_encoder.pt2" in str(caught.value)


def test_the_options_tell_the_kind_of_machine(model: ExportedModel) -> None:
    assert model.options == {**kind_of_machine(), "max_batch": 1024}
    if model.options["device"] == "cpu":
        assert set(model.options["instruction_sets"]) <= cpu.instruction_sets()
    assert model.options["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"instruction_sets": ["avx2", "amx_from_the_future"]}, "amx_from_the_future"),
        ({"torch": "2.6.0"}, "2.6.0"),
        ({"machine": "riscv64"}, "riscv64"),
    ],
)
def test_a_foreign_machine_is_refused(model: ExportedModel, change: dict[str, Any], named: str) -> None:
    with pytest.raises(SetupError) as caught:
        Pt2Encoder(replace(model, options={**model.options, **change}))
    assert named in caught.value.what and "\n" not in caught.value.what


@pytest.mark.parametrize(("found", "fits"), [("9.0", True), ("8.6", False), (None, False)])
def test_a_gpus_package_runs_on_gpus_of_its_capability_alone(
    found: str | None, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: dict[str, Any] = {"torch": "2.13.0", "machine": "x86_64"}
    made = {**here, "device": "cuda", "compute_capability": "9.0", "max_batch": 1024}
    here |= {"device": "cuda", "compute_capability": found} if found else {"device": "cpu"}
    monkeypatch.setattr(pt2, "kind_of_machine", lambda: here)
    if fits:
        check_kind_of_machine(made, Path("model"))
    else:
        with pytest.raises(SetupError):
            check_kind_of_machine(made, Path("model"))


def test_options_without_a_device_are_the_folders_fault(model: ExportedModel) -> None:
    with pytest.raises(DataError):
        Pt2Encoder(replace(model, options={}))


def test_a_missing_compiler_is_named_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError) as caught:
        check_machine("fp32", "native")
    assert "no-such-compiler" in caught.value.what


def test_half_precision_is_refused_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpu, "instruction_sets", lambda: frozenset({"avx2"}))
    for precision in ("fp16", "bf16"):
        with pytest.raises(SetupError):
            check_machine(precision, "native")
    check_machine("fp32", "native")


def test_wrong_requests_are_refused(encoder: Pt2Encoder, model: ExportedModel) -> None:
    wrong: Any = _pixels(encoder, 1).astype(np.float64)
    with pytest.raises(UsageError):
        encoder.encode_image(wrong)
    with pytest.raises(UsageError):
        encoder.encode_text(np.array([[49406, encoder.spec.vocab_size]]))
    with pytest.raises(UsageError):
        Pt2Encoder(model, num_threads=0)


def test_the_structure_tier_sees_a_damaged_package_and_one_of_another_model(
    model: ExportedModel, tmp_path: Path
) -> None:
    assert {check.verdict for check in check_pt2(model.path, model.spec, "fp32")} == {Verdict.PASS}
    other = check_pt2(model.path, replace(model.spec, model_digest="0" * 64), "fp32")
    assert [check.verdict for check in other].count(Verdict.FAIL) == 2
    for name in ("image_encoder.pt2", "text_encoder.pt2"):
        (tmp_path / name).write_bytes((model.path / name).read_bytes()[:-1000])
    damaged = check_pt2(tmp_path, model.spec, "fp32")
    assert {check.verdict for check in damaged} == {Verdict.FAIL}
