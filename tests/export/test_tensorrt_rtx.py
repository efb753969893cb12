"""NVIDIA's own parser and builder (TensorRT-RTX, which needs no GPU for it) take the typed graphs of each architecture.

Nothing is run: kernels are compiled on a GPU. It is no proof for TensorRT Enterprise, whose parser is of the same
source and whose builder is another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from kdx.core.errors import SetupError, UsageError
from kdx.export.deferred import defer_export
from kdx.export.job import BuildJob
from kdx.export.samples import ParitySamples
from kdx.export.tensorrt import TOWERS, build_engine, parse_alone, typed_graphs
from kdx.export.tensorrt_plan import BuildPlan, Profile, default_plan
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.runtime.deferred import open_deferred
from kdx.runtime.formats import find_format

trt: Any = pytest.importorskip("tensorrt_rtx")

# a trunk of each family, with few layers or small images. MobileViT and Swin take long to trace, however small: they
# are in the slow tier (test_full_size.py), as int8 is, but for that of the deferred export
SMALL: dict[str, dict[str, Any]] = {
    "ViT-T-16": {"image_size": 32, "layers": 1},
    "RN50": {"image_size": 32, "layers": (1, 1, 1, 1)},
    "ResNet-18": {"image_size": 32},
    "MobileNetV3-S": {"image_size": 32},
}
CASES = [
    *((name, "fp32") for name in ("ViT-T-16", "RN50", "ResNet-18")),
    ("ViT-T-16", "fp16"),
    ("ViT-T-16", "bf16"),
    ("MobileNetV3-S", "bf16"),  # its HardSwish is not taken in bf16
]


def _small(name: str) -> Architecture:
    architecture = read_architecture(name)
    text = architecture.text_cfg.changed(layers=1, width=64, heads=2)
    return architecture.changed(vision_cfg=architecture.vision_cfg.changed(**SMALL[name]), text_cfg=text)


def _checkpoint(architecture: Architecture, folder: Path) -> Checkpoint:
    save_checkpoint(folder, build_model(architecture, 0), architecture, clip_tokenizer())
    return open_checkpoint(folder)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_small_graphs_parse_and_build(name: str, precision: str, tmp_path: Path) -> None:
    """As `--format trt-rtx` does it, but for the GPU on which the engines would be gated."""
    checkpoint = _checkpoint(_small(name), tmp_path / "checkpoint")
    typed_graphs(BuildJob(checkpoint, tmp_path, precision, "trt"), tmp_path)
    plan = default_plan(checkpoint.spec)
    engines = list(zip(TOWERS, (plan.image, plan.text), strict=True))
    for tower, profiles in engines if name == "ViT-T-16" else engines[:1]:  # all have the same text tower
        assert len(build_engine(trt, tmp_path / f"{tower}.onnx", profiles, plan, None).content) > 10_000


def test_a_deferred_rtx_export_says_that_nvidia_built_it(
    mini_checkpoint: Path,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    images, texts = parity_samples.images, parity_samples.texts
    few = replace(parity_samples, images=images[:4], texts=texts[:4])
    others = replace(parity_samples, images=images[4:100], texts=texts[4:100])
    with traced_before():
        deferred = defer_export(
            open_checkpoint(mini_checkpoint),
            tmp_path / "rtx",
            format="trt-rtx",
            precision="int8",
            samples=few,
            calibration=others,
            allow_inconclusive=True,
        )
    proved_by = open_deferred(deferred.path).manifest.fields["proved_by"]
    assert proved_by == f"tensorrt_rtx {trt.__version__}, parsed and built"
    assert deferred.graphs.keys() == {"int8"}


def test_without_a_gpu_the_format_offers_to_defer() -> None:
    with pytest.raises(SetupError) as caught:
        find_format("trt-rtx").check_machine("fp32", "trt")
    assert "GPU" in caught.value.what and "--defer" in str(caught.value.remedy)


def _graph(folder: Path, operator: str, **attributes: Any) -> Path:
    """A graph of one node, pixels → image_features."""
    shape = ["batch", 3, 32, 32]
    node = helper.make_node(operator, ["pixels"], ["image_features"], name="the_node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("image_features", TensorProto.FLOAT, shape)],
    )
    path = folder / "image_encoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_an_operator_that_nvidia_lacks_is_named_with_its_node(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_alone(trt, _graph(tmp_path, "NotAnOperator"))
    assert "NotAnOperator" in caught.value.what and "the_node" in caught.value.what


def test_a_graph_that_is_no_file_is_refused_by_the_parser(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        parse_alone(trt, tmp_path / "none.onnx")


def test_a_build_that_fails_says_the_builders_own_reason(tmp_path: Path) -> None:
    graph = _graph(tmp_path, "Relu")
    shapes = [(batch, 3, 32, 32) for batch in (1, 2, 4)]
    plan = BuildPlan(image=(Profile("pixels", *shapes),), text=())
    assert build_engine(trt, graph, plan.image, plan, None).content
    with pytest.raises(UsageError) as caught:  # of a network with a free axis and no profile
        build_engine(trt, graph, (), plan, None)
    assert "profile" in caught.value.what
