"""Facts of kdx/runtime/openvino.py and export/openvino.py: an exported model in OpenVINO, and what it refuses."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdx
from kdx.core import cpu
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime import openvino
from kdx.runtime.exported_model import ExportedModel
from kdx.runtime.openvino import OpenVinoEncoder, check_machine
from kdx.runtime.torch import TorchEncoder


@pytest.fixture(scope="module")
def model(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
) -> ExportedModel:
    checkpoint, out = open_checkpoint(mini_checkpoint), mini_checkpoint.parent / "exported-openvino"
    with traced_before():
        return export_checkpoint(checkpoint, out, format="openvino", samples=parity_samples)


@pytest.fixture(scope="module")
def encoder(model: ExportedModel) -> Iterator[OpenVinoEncoder]:
    with OpenVinoEncoder(model, num_threads=1) as encoder:
        yield encoder


def _pixels(encoder: OpenVinoEncoder, count: int) -> np.ndarray:
    size = encoder.spec.image_size
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def test_an_exported_model_passes_the_gate_and_is_what_load_opens(model: ExportedModel) -> None:
    assert model.parity()["verdict"] == "PASS"
    assert model.options == {"inference_precision": "f32"} and model.precision == "fp32"
    with kdx.load(model.path) as opened:
        assert isinstance(opened, OpenVinoEncoder)


def test_batch_and_length_are_free(encoder: OpenVinoEncoder, mini_checkpoint: Path) -> None:
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


def test_an_answer_stays_when_the_next_batch_is_encoded(encoder: OpenVinoEncoder) -> None:
    pixels = _pixels(encoder, 2)
    first = encoder.encode_image(pixels[:1])
    kept = first.copy()
    encoder.encode_image(pixels[1:])
    np.testing.assert_array_equal(first, kept)


def test_pixels_that_may_not_be_written_to_are_taken(encoder: OpenVinoEncoder) -> None:
    pixels = _pixels(encoder, 1)
    pixels.flags.writeable = False
    assert encoder.encode_image(pixels).shape == (1, encoder.spec.embed_dim)


def test_several_threads_share_the_encoder(encoder: OpenVinoEncoder) -> None:
    pixels = _pixels(encoder, 8)
    alone = [encoder.encode_image(pixels[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: encoder.encode_image(pixels[i : i + 1]), range(8)))
    np.testing.assert_array_equal(alone, together)


def test_a_signal_after_it_is_closed_finds_the_stack_that_was_there_before(model: ExportedModel) -> None:
    """Else Ctrl-C, or the end of a child where somebody waits for such, is a segmentation fault."""
    before = _signal_stack()
    with OpenVinoEncoder(model, num_threads=1) as encoder:
        encoder.encode_image(_pixels(encoder, 1))
        encoder.embed_texts(["a star"])
        assert _signal_stack() == before
    assert _signal_stack() == before


def _signal_stack() -> tuple[int | None, int, int]:
    """Where this thread's handlers of signals run: address, flags, size (stack_t of sigaltstack(2))."""

    class Stack(ctypes.Structure):
        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.sp, stack.flags, stack.size


def test_wrong_requests_are_refused(encoder: OpenVinoEncoder, model: ExportedModel) -> None:
    wrong: Any = _pixels(encoder, 1).astype(np.float64)
    with pytest.raises(UsageError):
        encoder.encode_image(wrong)
    with pytest.raises(UsageError):
        encoder.encode_text(np.array([[49406, encoder.spec.vocab_size]]))
    with pytest.raises(UsageError):
        OpenVinoEncoder(model, num_threads=0)


def test_bf16_is_asked_for_and_taken_by_name(model: ExportedModel) -> None:
    if cpu.lacks_bf16():
        pytest.skip("this CPU has no bf16")
    coarse = replace(model, precision="bf16", options={"inference_precision": "bf16"})
    with OpenVinoEncoder(coarse) as rounded, OpenVinoEncoder(model) as exact:
        pixels = _pixels(exact, 3)
        distance = 1 - (rounded.encode_image(pixels) * exact.encode_image(pixels)).sum(-1)
    assert 1e-7 < distance.max() < 5e-4


def test_a_cpu_without_bf16_is_named_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "instruction_sets", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(SetupError) as caught:
        check_machine("bf16", "cpu")
    assert "bf16" in caught.value.what
    check_machine("fp32", "cpu")


def test_another_arithmetic_than_the_exported_one_is_refused(
    model: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken:
        def get_type_name(self) -> str:
            return "f16"

    class Compiled:
        def get_property(self, name: str) -> Taken:
            return Taken()

    real = openvino.import_openvino()

    class Core(real.Core):
        def compile_model(self, *arguments: Any) -> Compiled:
            return Compiled()

    class Module:
        pass

    module = Module()
    module.Core = Core  # type: ignore[attr-defined]
    monkeypatch.setattr(openvino, "import_openvino", lambda: module)
    with OpenVinoEncoder(model) as encoder, pytest.raises(SetupError) as caught:
        encoder.encode_image(_pixels(encoder, 1))
    assert "f16" in caught.value.what


@pytest.mark.parametrize("precision", [None, "f16", ""])
def test_an_unknown_arithmetic_in_the_folder_is_refused(model: ExportedModel, precision: str | None) -> None:
    with pytest.raises(DataError) as caught:
        OpenVinoEncoder(replace(model, options={"inference_precision": precision}))
    assert caught.value.where is not None and caught.value.where.endswith("config.json")


def test_a_damaged_graph_is_the_models_fault(model: ExportedModel, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(model.path, folder)
    graph = folder / "image_encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with OpenVinoEncoder(replace(model, path=folder)) as encoder, pytest.raises(DataError) as caught:
        encoder.encode_image(_pixels(encoder, 1))
    assert caught.value.where == str(graph)


def test_a_missing_openvino_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SetupError) as caught:
        check_machine("fp32", "cpu")
    assert caught.value.remedy == "pip install 'kdx[openvino]'"


def test_nothing_is_told_to_anybody(model: ExportedModel, tmp_path: Path) -> None:
    """A fresh process opens the model and runs it: no name is looked up, and nothing is written to the home folder."""
    script = """
import json, sys
seen = []
def watch(event, arguments):
    if event.startswith("socket.") or event in ("os.mkdir", "subprocess.Popen"):
        seen.append([event, str(arguments)])
sys.addaudithook(watch)
import kdx
with kdx.load(sys.argv[1]) as encoder:
    encoder.embed_texts(["a"])
loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"openvino", "openvino_telemetry", "torch"})
print(json.dumps([seen, loaded]))
"""
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(model.path)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert json.loads(done.stdout) == [[], ["openvino"]]
    assert not list(tmp_path.iterdir())
