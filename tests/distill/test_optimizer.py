"""Facts of distill/optimizer.py."""

from kdx.distill.optimizer import build_optimizer
from kdx.distill.recipe import OptimizerConfig
from kdx.models.architectures import build_model, read_architecture


def test_biases_norms_and_the_scale_do_not_decay_and_nothing_is_left_out() -> None:
    model = build_model(read_architecture("kdx-mini"))
    optimizer = build_optimizer([model], OptimizerConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.text_tower.token_embedding.weight)] == 0.3
    assert decay[id(model.logit_scale)] == decay[id(model.text_tower.ln_final.weight)] == 0.0
    assert len(decay) == len(list(model.parameters()))
