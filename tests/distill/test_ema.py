"""Facts of distill/ema.py."""

import torch
from torch import nn

from kdx.distill.ema import WeightAverage


def test_the_average_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    average = WeightAverage(layer, 0.5)
    nn.init.constant_(layer.weight, 2.0)
    average.update(1)  # decay 2 / 11
    assert abs(average.weights["weight"].item() - (2 / 11 + 2 * 9 / 11)) < 1e-6
    average.update(1000)  # decay ½
    expected = (2 / 11 + 18 / 11 + 2) / 2
    assert abs(average.weights["weight"].item() - expected) < 1e-6


def test_statistics_are_averaged_and_counts_copied() -> None:
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(norm, 0.9)
    norm(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    average.update(1000)
    assert average.weights["num_batches_tracked"] == 1
    assert torch.allclose(average.weights["running_mean"], 0.1 * norm.running_mean)  # type: ignore[operator]


def test_the_model_has_the_average_within_the_block_alone() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, 0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1)
    with average.in_place():
        assert torch.equal(layer.weight, before)
    assert torch.equal(layer.weight, before + 1)
