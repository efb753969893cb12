"""Facts of distill/run_state.py: a state that is read back goes on as if nothing had happened."""

import io
from typing import Any

import numpy as np
import torch

from kdx.data.loader import Batch
from kdx.distill import Objective, read_recipe
from kdx.distill.devices import Device
from kdx.distill.ema import WeightAverage
from kdx.distill.loop import Loop
from kdx.distill.optimizer import build_optimizer
from kdx.distill.ranks import ALONE
from kdx.distill.run_state import RunState
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model

VIT = {
    "name": "vit",
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}
SETTINGS = ("steps=6", "batch_size=4", "optimizer.warmup_steps=2", "ema=0.9", "accumulate=2", "text_blocks=2")


def _loop() -> Loop:
    recipe = read_recipe("demo-baseline", SETTINGS)
    schedule = recipe.schedule()
    assert schedule is not None
    device = Device(torch.device("cpu"))
    model = build_model(Architecture.model_validate(VIT), seed=0).train()
    objective = Objective(recipe.objective, 16)
    optimizer = build_optimizer((model, objective), recipe.optimizer)
    state = RunState(model, objective, optimizer, device.scaler(), WeightAverage(model, 0.9))
    return Loop(recipe, schedule, state, [], device, ALONE)


def _take(loop: Loop, steps: range) -> None:
    for step in steps:
        random = np.random.default_rng(step)
        tokens = random.integers(1, 98, (4, 8))
        tokens[:, -1] = 98
        rows = np.arange(4)
        pixels = torch.from_numpy(random.standard_normal((4, 3, 16, 16), dtype=np.float32))
        loop.step(Batch(step, rows, rows, rows, np.empty(0, np.uint8), tokens.astype(np.int32)), pixels)
        loop.state.step = step + 1


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in _flat(each, f"{name}.{key}").items()}
    return {name: value}


def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    whole, first, second = _loop(), _loop(), _loop()
    _take(whole, range(6))
    _take(first, range(3))
    file = io.BytesIO()
    torch.save(first.state.state_dict(), file)
    file.seek(0)
    second.state.load_state_dict(torch.load(file))
    assert second.state.step == 3
    _take(second, range(3, 6))
    one, other = _flat(whole.state.state_dict()), _flat(second.state.state_dict())
    assert one.keys() == other.keys() and any(name.startswith(".average.") for name in one)
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


def test_the_student_of_a_run_has_the_averaged_weights() -> None:
    loop = _loop()
    _take(loop, range(2))
    assert loop.state.average is not None
    last = loop.state.model.text_tower.text_projection.detach().clone()
    with loop.state.student():
        assert torch.equal(
            loop.state.model.text_tower.text_projection, loop.state.average.weights["text_projection"]
        )
    assert torch.equal(loop.state.model.text_tower.text_projection, last)
