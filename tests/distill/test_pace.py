"""Facts of distill/pace.py, step_flops.py and peaks.py."""

import pytest
import torch

from kdx.distill import pace, read_recipe
from kdx.distill.devices import Device
from kdx.distill.distillation import Inputs
from kdx.distill.pace import Pace
from kdx.distill.peaks import peak_flops
from kdx.distill.plan import plan_run
from kdx.distill.step_flops import StepFlops
from kdx.distill.text_blocks import Texts
from kdx.models.flops import count_flops

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize("settings", [(), ("student=kdx-mini-vit", "objective.mfd=1")])
def test_a_step_of_texts_of_one_length_is_what_the_plan_counts(settings: tuple[str, ...]) -> None:
    recipe = read_recipe("demo-clip-kd", settings)
    plan, context = plan_run(recipe), recipe.architecture.text_cfg.context_length
    counted = StepFlops(recipe).of(128, [(100, context), (28, context)])
    assert counted == pytest.approx(plan.step_flops, rel=1e-9)


@pytest.mark.parametrize("length", [2, 11, 31])
def test_texts_of_any_length_cost_what_is_counted_for_that_length(length: int) -> None:
    recipe = read_recipe("demo-clip-kd", ["student=kdx-mini-vit"])
    counts = count_flops(recipe.architecture, length)
    expected = 3 * (5 * counts.image + 5 * counts.text)
    assert StepFlops(recipe).of(5, [(5, length)]) == pytest.approx(expected, rel=1e-9)


def test_what_is_computed_again_for_memory_does_not_count() -> None:
    plain = StepFlops(read_recipe("demo-baseline", ["student=kdx-mini-vit"]))
    again = StepFlops(read_recipe("demo-baseline", ["student=kdx-mini-vit", "model.grad_checkpointing=true"]))
    assert plain.of(8, [(8, 20)]) == again.of(8, [(8, 20)])


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA A10G", None),  # slower than an A10
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_peak_is_known_or_left_out(monkeypatch: pytest.MonkeyPatch, name: str, tera: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: name)
    assert peak_flops(Device(GPU, "fp16")) == (None if tera is None else tera * 1e12)
    assert peak_flops(Device(GPU, "fp32")) is None and peak_flops(Device(CPU, "bf16")) is None


def _parts(pairs: int, length: int) -> list[Inputs]:
    texts = Texts((torch.zeros(pairs, length, dtype=torch.long),))
    return [Inputs(torch.zeros(pairs, 3, 2, 2), texts, 0, 0, torch.arange(pairs))]


def test_the_pace_is_of_the_time_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    measured = Pace(read_recipe("demo-baseline"), 32, Device(CPU))
    for _ in range(4):
        measured.waited(0.125)
        measured.stepped(_parts(32, 5))
    numbers = measured.read()
    assert (numbers["pairs_per_second"], numbers["seconds_waiting_share"]) == (64, 0.25)
    assert numbers["peak_mib"] > 10 and "mfu" not in numbers
    measured.restart()
    measured.stepped(_parts(32, 5))
    assert measured.read()["pairs_per_second"] == 32


def test_the_share_of_the_peak_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("demo-baseline", ["student=kdx-mini-vit"])
    step = StepFlops(recipe).of(16, [(16, 7)])
    monkeypatch.setattr(pace, "peak_flops", lambda device: 10 * step)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    measured = Pace(recipe, 16, Device(CPU))
    for _ in range(3):
        measured.stepped(_parts(16, 7))
    assert measured.read()["mfu"] == pytest.approx(3 / 2 / 10)
