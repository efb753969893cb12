"""Facts of distill/accumulation.py: a batch in parts has the gradients of the undivided one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from kdx.distill import Embeddings, Objective, ObjectiveConfig, accumulation
from kdx.distill.accumulation import backward_in_parts
from kdx.distill.devices import Device
from kdx.distill.distillation import Distillation, Inputs
from kdx.distill.ranks import ALONE, Ranks
from kdx.distill.text_blocks import Texts
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model, read_architecture
from kdx.models.grad_checkpointing import checkpoint_gradients

from .rank_processes import start_ranks

BATCH, WIDTH = 12, 16
METHODS = ("task", "crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity")
CPU = Device(torch.device("cpu"))
VIT = {
    "name": "vit",
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}


def _config(name: str) -> ObjectiveConfig:
    if name == "all":
        return ObjectiveConfig(**dict.fromkeys(METHODS, 1.0))
    if name == "widths":
        return ObjectiveConfig(**dict.fromkeys(METHODS, 1.0), dims=(3, WIDTH))  # type: ignore[arg-type]
    return ObjectiveConfig(**{"task": 0.0, name: 1.0})  # type: ignore[arg-type]


def _distillation(config: ObjectiveConfig, ranks: Ranks = ALONE) -> Distillation:
    torch.manual_seed(0)
    model = build_model(Architecture.model_validate(VIT), seed=0)
    return Distillation(model, Objective(config, WIDTH, 5, ranks=ranks), CPU).double()


def _batch() -> tuple[Tensor, np.ndarray, Embeddings]:
    random = np.random.default_rng(0)
    tokens = random.integers(1, 98, (BATCH, 8))
    tokens[:, -1] = 98
    image, text = F.normalize(torch.from_numpy(random.standard_normal((2, BATCH, 5))), dim=-1)
    pixels = torch.from_numpy(random.standard_normal((BATCH, 3, 16, 16)))
    return pixels, tokens, Embeddings(image, text, torch.tensor(9.0).double())


def _gradients(
    config: ObjectiveConfig, parts: int, ranks: Ranks = ALONE, *, shared: bool = False
) -> dict[str, Tensor]:
    """The loss, and the gradients of all parameters after one backward pass of this rank's rows."""
    pixels, tokens, teacher = _batch()
    rows = np.array_split(np.arange(BATCH), ranks.size)[ranks.rank]
    teachers = [Embeddings(teacher.image[rows], teacher.text[rows], teacher.scale)][: len(config.methods)]
    inputs = [
        Inputs(pixels[part], Texts.of(tokens[part], CPU, 16), 1, mask_seed=1, places=torch.from_numpy(part))
        for part in np.array_split(rows, parts)
    ]
    distillation = _distillation(config, ranks)
    wrapped = ranks.share(distillation, backwards=parts) if shared else distillation
    numbers: dict[str, Tensor] = {}
    for _ in range(2):  # DistributedDataParallel finds out in the second what the first one left
        distillation.zero_grad()
        if parts == 1:
            numbers = wrapped(inputs[0], teachers)
            numbers["loss"].backward()
        else:
            numbers = backward_in_parts(wrapped, inputs, teachers, CPU.scaler())
    gradients = {name: p.grad for name, p in distillation.named_parameters() if p.grad is not None}
    return {"loss": ranks.mean(numbers["loss"].detach()), **gradients}


def _difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(
        float((one[key] - other[key]).abs().max() / other[key].abs().max().clamp(min=1e-6)) for key in one
    )


@pytest.mark.parametrize("name", [*METHODS, "all", "widths"])
def test_parts_have_the_gradients_of_the_undivided_batch(name: str) -> None:
    assert _difference(_gradients(_config(name), 3), _gradients(_config(name), 1)) <= 1e-12


def test_the_comparison_notices_a_scale_that_each_part_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where each part has a loss of its own with the embeddings of the others (open_clip's accum_freq)."""
    product = accumulation.Pulled.product

    def faulty(self: accumulation.Pulled, student: Embeddings) -> Tensor:
        return product(replace(self, outside=3 * list(self.outside)), student)

    monkeypatch.setattr(accumulation.Pulled, "product", faulty)
    alone, found = _gradients(_config("all"), 1), _gradients(_config("all"), 3)
    assert torch.allclose(found["model.logit_scale"], 3 * alone["model.logit_scale"])
    assert _difference(found, alone) > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_batch_statistics_are_noted_once(checkpointing: bool) -> None:
    model = build_model(read_architecture("kdx-mini"), seed=0)
    if checkpointing:
        checkpoint_gradients(model)
    distillation = Distillation(model, Objective(ObjectiveConfig(), 64), CPU)
    pixels = torch.randn(8, 3, 64, 64)
    texts = Texts.of(np.full((4, 3), 49407), CPU, 64)
    parts = [Inputs(some, texts, 1, mask_seed=1, places=torch.arange(4)) for some in pixels.chunk(2)]
    backward_in_parts(distillation, parts, [], CPU.scaler())
    counts = [value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == len(parts) for count in counts)


def _work(folder: Path) -> None:
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    found = {name: _gradients(_config(name), 3, ranks, shared=True) for name in ("fd", "mfd", "widths")}
    torch.save(found, folder / f"found.{ranks.rank}")
    dist.destroy_process_group()


def test_parts_on_two_ranks_have_the_gradients_of_the_undivided_batch_on_one(tmp_path: Path) -> None:
    codes, _, err = start_ranks(2, tmp_path, _work, tmp_path)
    assert codes == [0, 0], err
    for name, gradients in torch.load(tmp_path / "found.1").items():
        alone = _gradients(_config(name), 1)
        assert _difference({key: gradients[key] for key in alone}, alone) <= 1e-12
