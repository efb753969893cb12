"""Facts of export/onnx.py: which architectures export, and what the files hold."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdx.core.errors import DataError, UsageError
from kdx.export import ParitySamples, check_exports, export_checkpoint, onnx as onnx_builder, structure
from kdx.export.half_precision import DTYPES
from kdx.export.onnx import (
    DATA_SUFFIX,
    export_towers,
    plain_attention,
    strip_metadata,
)
from kdx.export.report import Verdict
from kdx.export.structure import check_onnx
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import Checkpoint, open_checkpoint
from kdx.models.mini import ByobNet
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.onnx import OnnxEncoder

TOWERS = ("image_encoder.onnx", "text_encoder.onnx")


@pytest.fixture
def checkpoint(mini_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(mini_checkpoint)


def test_a_trunk_that_does_not_export_is_refused_with_the_reason_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward(self: ByobNet, x: torch.Tensor) -> torch.Tensor:
        return self.forward_features(x).flatten(2).mean(2) if x.sum() > 0 else x

    architecture = read_architecture("kdx-mini")
    check_exports(architecture)
    monkeypatch.setattr(ByobNet, "forward", forward)
    with pytest.raises(UsageError) as caught:
        check_exports(architecture)
    assert "kdx-mini" in caught.value.what and caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timm:hiera_tiny_224", "timm:maxvit_tiny_rw_224", "timm:coat_lite_tiny", "RN50"]
)
def test_trunks_that_needed_help_export(name: str) -> None:
    check_exports(read_architecture(name))


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = build_model(read_architecture("timm:vit_tiny_patch16_224"))
    trunk: Any = model.visual.trunk
    trunk.blocks[0].attn.fused_attn = False  # the user's own choice
    before = [block.attn.fused_attn for block in trunk.blocks]
    with plain_attention(model):
        assert not any(block.attn.fused_attn for block in trunk.blocks)
    assert [block.attn.fused_attn for block in trunk.blocks] == before and any(before)


# Weights beside the file


LARGE = 100_000  # bytes; as the limit of one file it makes large models of mini_checkpoint's encoders


@pytest.fixture(scope="module")
def export(
    mini_checkpoint: Path,
    exported_model: Path,
    parity_samples: ParitySamples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int, str], Path]:
    """export(limit, precision): mini_checkpoint as an exported model, with this limit of one file."""

    @functools.cache
    def export(limit: int, precision: str) -> Path:
        if (limit, precision) == (onnx_builder.FILE_LIMIT, "fp32"):
            return exported_model
        path = tmp_path_factory.mktemp("exports") / "exported"
        checkpoint = open_checkpoint(mini_checkpoint)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_builder, "FILE_LIMIT", limit)
            export_checkpoint(checkpoint, path, precision=precision, samples=parity_samples)
        return path

    return export


@pytest.fixture
def large_model(export: Callable[[int, str], Path]) -> Path:
    """The exported model of mini_checkpoint as if its encoders were above the limit of one file."""
    return export(LARGE, "fp32")


def test_above_the_limit_each_encoder_is_a_graph_and_one_data_file(large_model: Path) -> None:
    for name in TOWERS:
        graph = onnx.load(large_model / name, load_external_data=False)
        entries = [
            {entry.key: entry.value for entry in tensor.external_data}
            for tensor in graph.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        assert {entry["location"] for entry in entries} == {
            name + DATA_SUFFIX
        }  # relative: the pair can be moved
        size = (large_model / (name + DATA_SUFFIX)).stat().st_size
        assert size == sum(int(entry["length"]) for entry in entries) > 100_000
        assert (large_model / name).stat().st_size < 100_000


def test_a_model_above_the_limit_passes_the_gate_and_answers_as_the_one_below(
    large_model: Path, exported_model: Path
) -> None:
    large, small = open_exported_model(large_model), open_exported_model(exported_model)
    assert large.parity()["verdict"] == "PASS"
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    tokens = np.array([[49406, 320, 1929, 49407]])
    with OnnxEncoder(large) as first, OnnxEncoder(small) as second:
        assert np.array_equal(first.encode_image(pixels), second.encode_image(pixels))
        assert np.array_equal(first.encode_text(tokens), second.encode_text(tokens))


@pytest.mark.parametrize("limit", [LARGE, onnx_builder.FILE_LIMIT])
def test_an_fp16_export_passes_the_gate_with_its_weights_inside_and_outside(
    export: Callable[[int, str], Path], exported_model: Path, limit: int
) -> None:
    half = open_exported_model(export(limit, "fp16"))
    assert half.parity()["verdict"] == "PASS" and half.options == {}
    single = sum(path.stat().st_size for path in exported_model.glob("*.onnx*"))
    assert 0.5 < sum(path.stat().st_size for path in half.path.glob("*.onnx*")) / single < 0.6
    assert (half.path / (TOWERS[0] + DATA_SUFFIX)).exists() == (limit == LARGE)
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    with half.open() as fp16, open_exported_model(exported_model).open() as fp32:
        first, second = fp16.encode_image(pixels), fp32.encode_image(pixels)
    assert first.dtype == np.float32 and 0 < np.abs(first - second).max() < 1e-3


def test_a_tower_that_takes_texts_of_one_length_has_no_free_length_and_passes_the_gate(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path
) -> None:
    spec = replace(checkpoint.spec, text_padding="full")
    export_checkpoint(replace(checkpoint, spec=spec), tmp_path / "full", samples=parity_samples)
    model = open_exported_model(tmp_path / "full")
    (tokens,) = onnx.load(model.text_encoder).graph.input
    sizes = [axis.dim_param or axis.dim_value for axis in tokens.type.tensor_type.shape.dim]
    assert sizes == ["batch", spec.context_length]
    names = {check["name"] for tier in model.parity()["tiers"].values() for check in tier["checks"]}
    assert model.parity()["verdict"] == "PASS" and "a text with and without padding" not in names
    with model.open() as encoder:
        vectors = encoder.embed_texts(["a dog", "a cat on a mat"])
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
        with pytest.raises(UsageError):
            encoder.encode_text(np.ones((1, 5), np.int32))


def test_optimizers_that_a_file_does_not_bear_are_recorded_for_its_tower(
    mini_checkpoint: Path, parity_samples: ParitySamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_in_half(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
        model = copy.deepcopy(checkpoint.model).to(dtype)  # without LayerNorm in fp32 the text tower crashes
        model.visual.register_forward_pre_hook(lambda _module, inputs: tuple(x.to(dtype) for x in inputs))
        return model

    monkeypatch.setattr(onnx_builder, "cast_towers", all_in_half)
    monkeypatch.setattr(structure, "SUMS", ())
    checkpoint = open_checkpoint(mini_checkpoint)
    model = export_checkpoint(checkpoint, tmp_path / "half", precision="fp16", samples=parity_samples)
    assert model.options == {"disabled_optimizers": {"text_encoder": ["MatmulTransposeFusion"]}}
    with open_exported_model(model.path).open() as encoder:
        assert encoder.embed_texts(["a star"]).shape == (1, 64)


def test_bf16_is_refused_for_onnx_runtime_before_anything_is_built(
    mini_checkpoint: Path, parity_samples: ParitySamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_builder, "cast_towers", lambda *_: pytest.fail("it was built"))
    with pytest.raises(UsageError) as caught:
        export_checkpoint(
            open_checkpoint(mini_checkpoint), tmp_path / "half", precision="bf16", samples=parity_samples
        )
    assert "bf16" in caught.value.what and "fp16" in str(caught.value.remedy)


@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_changed_data_file_is_refused(large_model: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(large_model, folder)
    data = folder / f"text_encoder.onnx{DATA_SUFFIX}"
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content if change == "flip" else content[:-4])
    if change == "remove":
        data.unlink()
    with pytest.raises(DataError) as caught:
        open_exported_model(folder)
    assert caught.value.where == str(data)


@pytest.mark.parametrize(
    ("damage", "finding"), [("remove", "is a valid graph"), ("cut", "weights"), ("rename", "weights")]
)
def test_the_gate_finds_a_data_file_that_is_missing_short_or_another(
    large_model: Path, tmp_path: Path, damage: str, finding: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(large_model, folder)
    data = folder / f"image_encoder.onnx{DATA_SUFFIX}"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-4])
    elif damage == "remove":
        data.unlink()
    else:
        graph = onnx.load(folder / "image_encoder.onnx", load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"text_encoder.onnx{DATA_SUFFIX}"
        onnx.save(graph, folder / "image_encoder.onnx")
    checks = check_onnx(folder, open_exported_model(large_model).spec, "fp32")
    faults = {check.name for check in checks if check.verdict is Verdict.FAIL}
    assert faults == {f"image_encoder {finding}"}


def test_notes_are_found_and_removed_wherever_a_graph_can_carry_them() -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="/home/a")], "branch", [], []
    )
    node = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "main", [], []))
    node = model.graph.node[0]
    node.metadata_props.add(key="stack_trace", value="/home/b")
    node.attribute[0].g.node[0].metadata_props.add(key="stack_trace", value="/home/c")
    strip_metadata(model)
    assert b"/home" not in model.SerializeToString()


@pytest.mark.parametrize(
    ("limit", "precision"), [(LARGE, "fp32"), (onnx_builder.FILE_LIMIT, "fp32"), (LARGE, "fp16")]
)
def test_two_exports_hold_the_same_bytes(
    export: Callable[[int, str], Path],
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    precision: str,
) -> None:
    first = export(limit, precision)
    monkeypatch.setattr(onnx_builder, "FILE_LIMIT", limit)
    export_towers(checkpoint, tmp_path, DTYPES[precision])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == (4 if limit == LARGE else 2)
    for name in files:
        assert (tmp_path / name).read_bytes() == (first / name).read_bytes()
