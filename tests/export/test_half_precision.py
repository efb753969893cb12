"""Facts of export/half_precision.py and export/batch_norm_folding.py: what is cast, and what stays in fp32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from kdx.core.errors import UsageError
from kdx.export.batch_norm_folding import fold_batch_norms
from kdx.export.half_precision import DTYPES, cast_towers
from kdx.export.onnx import export_towers
from kdx.export.report import Verdict
from kdx.export.session_trial import find_disabled_optimizers
from kdx.export.structure import check_onnx
from kdx.models.architectures import build_model, read_architecture, shipped_names
from kdx.models.checkpoint import Checkpoint, describe, open_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.runtime.formats import LIMITS
from kdx.runtime.onnx import import_onnxruntime, open_session

HALVES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


def _random_checkpoint(name: str, **changed: int) -> Checkpoint:
    """changed: what both towers have otherwise than the architecture of that name."""
    architecture = read_architecture(name)
    vision, text = (tower.changed(**changed) for tower in (architecture.vision_cfg, architecture.text_cfg))
    architecture = architecture.changed(vision_cfg=vision, text_cfg=text)
    model, tokenizer = build_model(architecture, 0).eval(), clip_tokenizer()
    spec = describe(model, architecture, tokenizer, "0" * 64)
    return Checkpoint(Path(name), model, spec, tokenizer, architecture)


@pytest.fixture(scope="module")
def vit() -> Checkpoint:
    """LayerNorm and attention; the conv net of mini_checkpoint has BatchNorm."""
    return _random_checkpoint("kdx-mini-vit", layers=1)


@pytest.fixture(params=["vit", "convolutional"])
def checkpoint(request: pytest.FixtureRequest, vit: Checkpoint, mini_checkpoint: Path) -> Checkpoint:
    return vit if request.param == "vit" else open_checkpoint(mini_checkpoint)


def _embeddings(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, 32, 32, generator=generator)
    tokens = torch.randint(1, 49405, (4, 9), generator=generator)
    tokens[:, -1] = 49407
    with torch.no_grad():
        towers = (model.encode_image(pixels), model.encode_text(tokens))
    return nn.functional.normalize(torch.cat([tower.float() for tower in towers]), dim=-1)


@pytest.mark.parametrize(("precision", "distance"), [("fp16", 1e-5), ("bf16", 5e-4)])
def test_a_cast_copy_gives_nearly_the_same_embeddings_and_leaves_the_checkpoint_as_it_was(
    checkpoint: Checkpoint, precision: str, distance: float
) -> None:
    model = checkpoint.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = _embeddings(model)
    cast = cast_towers(checkpoint, DTYPES[precision])
    cosines = (_embeddings(cast) * embeddings).sum(-1)
    assert 0 < (1 - cosines).max() < distance
    assert cast.encode_image(torch.zeros(1, 3, 32, 32)).dtype == DTYPES[precision]
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(_embeddings(model), embeddings)


def test_fp32_is_the_checkpoints_own_model(vit: Checkpoint) -> None:
    assert cast_towers(vit, torch.float32) is vit.model


def test_norms_keep_their_fp32_weights_and_all_others_are_cast(vit: Checkpoint) -> None:
    with torch.no_grad():
        vit.model.text_tower.ln_final.weight[0] = 1.0001  # no fp16 number
    cast = cast_towers(vit, torch.float16)
    norms = {name for name, module in cast.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, parameter in cast.named_parameters():
        in_norm = name.rpartition(".")[0] in norms
        assert parameter.dtype == (torch.float32 if in_norm else torch.float16), name
    assert cast.text_tower.ln_final.weight[0] == torch.tensor(1.0001)


def test_weights_beyond_the_range_of_fp16_are_refused_by_name_and_fit_into_bf16(
    mini_checkpoint: Path,
) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    with torch.no_grad():
        checkpoint.model.text_tower.text_projection[0, 0] = 7e4
    with pytest.raises(UsageError) as caught:
        cast_towers(checkpoint, torch.float16)
    assert "text_projection" in caught.value.what and "7e+04" in caught.value.what
    assert cast_towers(checkpoint, torch.bfloat16).text_tower.text_projection.dtype == torch.bfloat16


# BatchNorm


class _Trunk(nn.Module):
    """A pair that folds, one with timm's activation inside, and a norm behind a branch, as in pre-activation nets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.second, self.second_norm = nn.Conv2d(4, 4, 1), BatchNormAct2d(4)
        self.third, self.third_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second_norm(self.second(self.first_norm(self.first(x))))
        branch = self.third(x)
        return branch + self.third_norm(branch)


def _trunk() -> _Trunk:
    torch.manual_seed(0)
    trunk = _Trunk().eval()
    norms: list[Any] = [trunk.first_norm, trunk.second_norm, trunk.third_norm]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(1e5, 1e6)  # beyond fp16
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, 100, 1000)
            nn.init.normal_(norm.bias)
    return trunk


def test_a_batch_norm_that_alone_follows_a_convolution_is_folded_and_nothing_changes() -> None:
    trunk, pixels = _trunk(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = trunk(pixels)
        fold_batch_norms(trunk, pixels, "trunk")
        assert torch.allclose(trunk(pixels), expected, atol=1e-5)
    assert isinstance(trunk.first_norm, nn.Identity) and isinstance(trunk.second_norm, nn.Sequential)
    assert isinstance(trunk.third_norm, nn.BatchNorm2d)  # its convolution's output goes on beside it
    assert trunk.first.bias is not None


def test_a_trunk_that_cannot_be_traced_is_a_usage_error() -> None:
    class Branching(_Trunk):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(UsageError) as caught:
        fold_batch_norms(Branching().eval(), torch.zeros(2, 3, 8, 8), "odd-net")
    assert "odd-net" in caught.value.what


# The files


@pytest.fixture(scope="module")
def half_files(vit: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """half_files(precision): the folder with both towers."""

    @functools.cache
    def export(precision: str) -> Path:
        folder = tmp_path_factory.mktemp(precision)
        export_towers(vit, folder, DTYPES[precision])
        return folder

    return export


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_half_borders_fp32_and_what_breaks_is_computed_in_fp32(
    half_files: Callable[[str], Path], vit: Checkpoint, precision: str
) -> None:
    folder = half_files(precision)
    assert not [check for check in check_onnx(folder, vit.spec, precision) if check.verdict is Verdict.FAIL]
    for tower in ("image_encoder", "text_encoder"):
        graph = onnx.load(folder / f"{tower}.onnx").graph
        half = [tensor for tensor in graph.initializer if tensor.data_type == HALVES[precision]]
        single = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
        assert sum(len(tensor.raw_data) for tensor in single) < 0.02 * sum(len(t.raw_data) for t in half)
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        for node in graph.node:
            if node.op_type in ("Softmax", "LayerNormalization", "ReduceL2"):
                assert types[node.input[0]] == onnx.TensorProto.FLOAT
            if node.op_type in ("MatMul", "Gemm"):
                assert types[node.input[0]] == HALVES[precision]


@pytest.mark.parametrize("operator", ["Softmax", "MatMul"])
def test_an_operator_in_the_wrong_precision_is_found(
    half_files: Callable[[str], Path], vit: Checkpoint, tmp_path: Path, operator: str
) -> None:
    folder, precision = half_files("fp16"), "fp16"
    for tower in ("image_encoder", "text_encoder"):
        model = onnx.load(folder / f"{tower}.onnx")
        node = next(node for node in model.graph.node if node.op_type == operator)
        value = next(value for value in model.graph.value_info if value.name == node.input[0])
        value.type.tensor_type.elem_type = (
            HALVES[precision] if operator == "Softmax" else onnx.TensorProto.FLOAT
        )
        onnx.save(model, tmp_path / f"{tower}.onnx")
    faults = [check for check in check_onnx(tmp_path, vit.spec, precision) if check.verdict is Verdict.FAIL]
    assert len(faults) == 2 and all(operator in fault.detail for fault in faults)


def test_a_cast_graph_gives_the_embeddings_of_the_cast_model(
    half_files: Callable[[str], Path], vit: Checkpoint
) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    file = half_files("fp16") / "image_encoder.onnx"
    (features,) = InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})
    with torch.no_grad():
        expected = cast_towers(vit, torch.float16).encode_image(torch.from_numpy(pixels)).float()
    assert np.abs(features - nn.functional.normalize(expected, dim=-1).numpy()).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_names() if not name.startswith("kdx-")])
def test_every_architecture_in_half_precision_stays_near_fp32(name: str, tmp_path: Path) -> None:
    """docs/benchmarks/half-precision.md is what it prints, with -s."""
    checkpoint = _random_checkpoint(name)
    size = checkpoint.spec.image_size
    generator = torch.Generator().manual_seed(0)
    # as of a trained network: with those of a new one EfficientNet's activations are too small for fp16
    norms: list[Any] = [m for m in checkpoint.model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.3, 3, generator=generator)
    pixels = torch.randn(3, 3, size, size, generator=generator)
    tokens = torch.randint(1, 49405, (3, 20), generator=generator, dtype=torch.int32)
    tokens[:, -1] = 49407
    inputs = {"image_encoder": ("pixels", pixels), "text_encoder": ("tokens", tokens)}

    def run(model: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            towers = (model.encode_image(pixels), model.encode_text(tokens))
        return {
            tower: nn.functional.normalize(features.double(), dim=-1)
            for tower, features in zip(inputs, towers, strict=True)
        }

    expected = run(checkpoint.model)
    export_towers(checkpoint, tmp_path, torch.float16)
    faults = [c for c in check_onnx(tmp_path, checkpoint.spec, "fp16") if c.verdict is Verdict.FAIL]
    assert not faults
    halves = {"PyTorch fp16": run(cast_towers(checkpoint, torch.float16))}
    halves["PyTorch bf16"] = run(cast_towers(checkpoint, torch.bfloat16))
    halves["ONNX Runtime fp16"] = {}
    for tower, (input_, batch) in inputs.items():
        file = tmp_path / f"{tower}.onnx"
        disabled = find_disabled_optimizers(file)
        session = open_session(import_onnxruntime(), file, 1, disabled)
        (features,) = session.run([], {input_: batch.numpy()})
        halves["ONNX Runtime fp16"][tower] = torch.from_numpy(features).double()
        print(f"{name}: {tower} {file.stat().st_size / 1e6:.1f} MB, disabled {disabled}")
    for how, embeddings in halves.items():
        for tower, rows in embeddings.items():
            distance = float((1 - (rows * expected[tower]).sum(-1) / rows.norm(dim=-1)).max())
            component = float((rows - expected[tower]).abs().max())
            print(f"{name}: {how} {tower} 1-cos {distance:.1e}, component {component:.1e}")
            limits = LIMITS[how.split()[-1]]
            assert distance < limits.cosine_distance / 2 and component < limits.invariance
