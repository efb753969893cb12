"""Facts of distill/optimizer.py."""

import pytest

from kdx.distill.optimizer import build_optimizer, learning_rate
from kdx.distill.recipe import OptimizerConfig
from kdx.models.architectures import build_model

CONFIG = OptimizerConfig(lr=1.0, warmup_steps=10)


def test_the_learning_rate_rises_linearly_then_falls_by_a_half_cosine() -> None:
    rates = [learning_rate(CONFIG, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert learning_rate(OptimizerConfig(lr=2.0, warmup_steps=0), 0, 5) == 2.0


def test_biases_norms_and_the_scale_do_not_decay_and_nothing_is_left_out() -> None:
    model = build_model("kdx-mini")
    optimizer = build_optimizer([model], OptimizerConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.token_embedding.weight)] == 0.3
    assert decay[id(model.logit_scale)] == decay[id(model.ln_final.weight)] == 0.0
    assert len(decay) == len(list(model.parameters()))
