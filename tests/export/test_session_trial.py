"""Facts of export/session_trial.py: a file that ONNX Runtime opens needs nothing disabled, and a crash is survived.

That a real crash is survived and recorded is shown in test_onnx.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx
import pytest

from kdx.core.errors import GateError, SetupError
from kdx.export import child
from kdx.export.session_trial import CANDIDATES, find_disabled_optimizers

# as FastViT has it: maps of features become tokens, one product gives queries, keys and values
ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
attention (float16[batch, 8, 2, 2] maps) => (float16[batch, 2, 4, 4] answers)
<int64[3] rows = {-1, 8, 4}, int64[5] parts = {-1, 4, 3, 2, 4},
 int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}> {
  flat = Reshape (maps, rows)
  tokens = Transpose <perm = [0, 2, 1]> (flat)
  together = MatMul (tokens, weight)
  split = Reshape (together, parts)
  heads = Transpose <perm = [2, 0, 3, 1, 4]> (split)
  first = Slice (heads, zero, one, zero)
  queries = Squeeze (first, zero)
  second = Slice (heads, one, two, zero)
  keys = Squeeze (second, zero)
  third = Slice (heads, two, three, zero)
  values = Squeeze (third, zero)
  scaled = Mul (queries, scale)
  turned = Transpose <perm = [0, 1, 3, 2]> (keys)
  scores = MatMul (scaled, turned)
  wide = Cast <to = 1> (scores)
  shares = Softmax <axis = -1> (wide)
  narrow = Cast <to = 10> (shares)
  answers = MatMul (narrow, values)
}
"""


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


def test_attention_that_onnx_runtime_takes_for_fp32_opens_without_its_fusion(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(ATTENTION)
    for name, value in (("weight", np.ones((8, 24), np.float16)), ("scale", np.array(0.5, np.float16))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "image_encoder.onnx")
    assert find_disabled_optimizers(tmp_path / "image_encoder.onnx") == ["AttentionFusion"]


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
