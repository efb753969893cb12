"""Facts of export/session_trial.py: a file that ONNX Runtime opens needs nothing disabled, and a crash is survived.

That a real crash is survived and recorded is shown in test_onnx.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import onnx
import pytest

from kdx.core.errors import GateError, SetupError
from kdx.export import child
from kdx.export.session_trial import CANDIDATES, find_disabled_optimizers


def test_a_file_that_opens_needs_nothing_disabled(exported_model: Path) -> None:
    assert find_disabled_optimizers(exported_model / "image_encoder.onnx") == []


def test_a_file_without_kernels_fails_the_gate_with_onnx_runtimes_reason(tmp_path: Path) -> None:
    kinds = (onnx.TensorProto.BFLOAT16, ["batch", 4])
    add = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    inputs, outputs = (onnx.helper.make_tensor_value_info(name, *kinds) for name in "xy")
    graph = onnx.helper.make_graph([add], "main", [inputs], [outputs])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "image_encoder.onnx"
    )
    with pytest.raises(GateError) as caught:
        find_disabled_optimizers(tmp_path / "image_encoder.onnx")
    assert "Add" in caught.value.what and "image_encoder.onnx" in caught.value.what


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGSEGV, GateError), (signal.SIGKILL, SetupError)])
def test_a_crash_tries_all_candidates_and_an_end_from_outside_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, kind: type[Exception]
) -> None:
    interpreter, tried = tmp_path / "python", tmp_path / "tried"
    interpreter.write_text(f'#!/bin/sh\necho "$@" >> {tried}\nkill -{number.value} $$\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(interpreter))
    with pytest.raises(kind) as caught:
        find_disabled_optimizers(Path("text_encoder.onnx"))
    assert "text_encoder.onnx" in str(caught.value)
    optimizers = [tuple(line.split()[3:-1]) for line in tried.read_text().splitlines()]
    assert optimizers == list(CANDIDATES if kind is GateError else CANDIDATES[:1])
