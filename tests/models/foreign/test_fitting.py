"""Facts of kdx/models/foreign/fitting.py: nothing but whole weights is taken, and the faults are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdx.core.errors import DataError
from kdx.models.architecture import Architecture, VisionConfig
from kdx.models.foreign.fitting import check_fit, fit

FullKeys = Callable[[Architecture], dict[str, Tensor]]


def _message(state: dict[str, Tensor], architecture: Architecture) -> str:
    with pytest.raises(DataError) as caught:
        check_fit(state, architecture, "file.pt")
    assert "\n" not in str(caught.value) and caught.value.remedy
    return str(caught.value)


def test_missing_surplus_and_misshapen_keys_are_named(small_vit: Architecture, full_keys: FullKeys) -> None:
    state = full_keys(small_vit)
    del state["visual.ln_post.bias"], state["transformer.resblocks.1.attn.in_proj_weight"]
    state["visual.extra"] = torch.zeros(1)
    state["visual.proj"] = torch.zeros(2, 3)
    message = _message(state, small_vit)
    assert message == (
        "file.pt: does not hold the weights of small: 2 missing (visual.ln_post.bias,"
        " transformer.resblocks.1.attn.in_proj_weight); 1 surplus (visual.extra);"
        " 1 misshapen (visual.proj is float [2, 3], not float [128, 48])"
    )


def test_a_missing_bias_of_a_sigmoid_model_is_explained(small_vit: Architecture, full_keys: FullKeys) -> None:
    message = _message(full_keys(small_vit), small_vit.changed(init_logit_bias=-10.0))
    assert message == "file.pt: has no logit_bias, and small is trained with the sigmoid loss, which adds one"


def test_only_the_first_of_many_are_named(small_vit: Architecture, full_keys: FullKeys) -> None:
    state = {key: value for key, value in full_keys(small_vit).items() if not key.startswith("visual.")}
    message = _message(state, small_vit)
    assert "missing (visual.class_embedding, visual.positional_embedding, visual.proj …)" in message


def test_quantised_weights_are_not_taken_for_floats(small_vit: Architecture, full_keys: FullKeys) -> None:
    state = full_keys(small_vit)
    state["visual.proj"] = torch.zeros(128, 48, dtype=torch.int8)
    assert "visual.proj is integer [128, 48], not float [128, 48]" in _message(state, small_vit)


def test_half_precision_becomes_float32_and_no_memory_is_shared(
    small_vit: Architecture, full_keys: FullKeys
) -> None:
    state = {key: value.bfloat16() for key, value in full_keys(small_vit).items()}
    weights = fit(state, small_vit, "x").state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert len({value.data_ptr() for value in weights.values()}) == len(weights)


def test_a_configuration_that_cannot_be_built_is_said(small_vit: Architecture, full_keys: FullKeys) -> None:
    vision = VisionConfig(timm_model_name="no_such_network", image_size=32)
    assert "cannot be built" in _message(full_keys(small_vit), small_vit.changed(vision_cfg=vision))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("ln_final.weight", torch.full((64,), float("nan")), "ln_final.weight"),
        ("logit_scale", torch.tensor(float("inf")), "logit_scale, exp(logit_scale)"),
        ("logit_scale", torch.tensor(1e4), "exp(logit_scale)"),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    small_vit: Architecture, full_keys: FullKeys, key: str, value: Tensor, named: str
) -> None:
    state = full_keys(small_vit) | {"logit_scale": torch.tensor(1.0)}
    fit(state, small_vit, "file.pt")
    with pytest.raises(DataError) as caught:
        fit(state | {key: value}, small_vit, "file.pt")
    assert caught.value.what == f"holds numbers that are not finite: {named}"


def test_sparse_and_complex_weights_are_named(small_vit: Architecture, full_keys: FullKeys) -> None:
    state = full_keys(small_vit)
    state["positional_embedding"] = torch.zeros(16, 64).to_sparse()
    state["ln_final.weight"] = torch.zeros(64, dtype=torch.complex64)
    message = _message(state, small_vit)
    assert "positional_embedding is sparse or quantized float [16, 64], not float [16, 64]" in message
    assert "ln_final.weight is complex [64], not float [64]" in message
