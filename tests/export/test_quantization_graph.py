"""Facts of export/quantization_graph.py, on graphs made by hand."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from kdx.export.quantization_graph import prepare_graph


def _save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list) -> None:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])


def test_elementwise_nodes_among_convolutions_are_found_and_means_are_pooled(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((4, 3, 3, 3), dtype=np.float32),
        "squeeze": random.standard_normal((4, 4, 1, 1), dtype=np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], "before"),
        helper.make_node("Conv", ["twice", "w"], ["c"], "conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["c", "s"], ["silu"], "silu"),
        helper.make_node("ReduceMean", ["silu", "axes"], ["mean"], "mean", keepdims=1),
        helper.make_node("Conv", ["mean", "squeeze"], ["gate"], "gate"),
        helper.make_node("HardSigmoid", ["gate"], ["hard"], "hard"),
        helper.make_node("Mul", ["silu", "hard"], ["y"], "scale"),
    ]
    _save(tmp_path / "source.onnx", nodes, weights, ["batch", 3, 8, 8])
    plan = prepare_graph(tmp_path / "source.onnx", tmp_path / "prepared.onnx")
    assert plan.layers == ("conv", "gate")
    assert plan.between == ("sigmoid", "silu", "mean", "scale")
    prepared = onnx.load(tmp_path / "prepared.onnx")
    assert "GlobalAveragePool" in {node.op_type for node in prepared.graph.node}
    x = random.standard_normal((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(
        _run(tmp_path / "prepared.onnx", x), _run(tmp_path / "source.onnx", x), rtol=1e-5
    )


def test_a_transformer_has_none_of_them_and_its_means_stay(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((6, 6), dtype=np.float32), "axes": np.array([1])}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Sigmoid", ["p"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["p", "s"], ["silu"], "silu"),
        helper.make_node("ReduceMean", ["silu", "axes"], ["y"], "mean", keepdims=0),
    ]
    _save(tmp_path / "source.onnx", nodes, weights, ["batch", 5, 6])
    plan = prepare_graph(tmp_path / "source.onnx", tmp_path / "prepared.onnx")
    assert (plan.layers, plan.between) == (("product",), ())
    prepared = onnx.load(tmp_path / "prepared.onnx")
    assert "ReduceMean" in {node.op_type for node in prepared.graph.node}
