"""Facts of distill/pace.py."""

import pytest
import torch

from kdx.distill import pace, read_recipe
from kdx.distill.devices import Device
from kdx.distill.distillation import Inputs
from kdx.distill.pace import Pace
from kdx.distill.step_flops import StepFlops
from kdx.distill.text_blocks import Texts

CPU = torch.device("cpu")


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
