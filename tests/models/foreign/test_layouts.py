"""Facts of kdx/models/foreign/layouts.py, on keys that stand for the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from kdx.models.foreign.layouts import (
    classifier_to_projection,
    lift_text_tower,
    normalise,
    projection_to_classifier,
    rename_old_swin,
    strip_wrappers,
)

PLAIN = {
    "visual.proj": torch.zeros(2),
    "transformer.resblocks.0.ln_1.weight": torch.zeros(3),
    "positional_embedding": torch.zeros(4),
    "logit_scale": torch.zeros(()),
}


def test_a_prefix_of_some_keys_only_is_no_wrapper() -> None:
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip_wrappers(mixed) == mixed


def test_the_text_tower_is_lifted_unless_keys_would_meet() -> None:
    custom = {
        ("text." + key if key.startswith(("trans", "pos")) else key): value for key, value in PLAIN.items()
    }
    assert lift_text_tower(custom) == PLAIN
    both = {**custom, "positional_embedding": torch.ones(4)}
    assert lift_text_tower(both) is both


def test_openais_sizes_and_masks_are_dropped_and_the_owner_known() -> None:
    sizes = {"input_resolution": 224, "context_length": torch.tensor(77), "vocab_size": 49408}
    normalised = normalise({**PLAIN, **sizes, "attn_mask": torch.zeros(77, 77)})
    assert normalised.state == PLAIN and normalised.from_openai
    assert len(normalised.changes) == 2


def test_the_plain_layout_is_left_alone() -> None:
    normalised = normalise(PLAIN)
    assert normalised.state == PLAIN and normalised.changes == () and not normalised.from_openai


def test_scales_become_scalars() -> None:
    state = normalise({"logit_scale": torch.ones(1), "logit_bias": torch.ones(1)}).state
    assert state["logit_scale"].shape == state["logit_bias"].shape == ()


def test_old_swin_stages_move_up_without_meeting() -> None:
    trunk = "visual.trunk.layers."
    old = {f"{trunk}{i}.downsample.norm.weight": torch.tensor(i) for i in (0, 1, 2)}
    new = rename_old_swin(old)
    assert {key: int(value) for key, value in new.items()} == {
        f"{trunk}{i + 1}.downsample.norm.weight": i for i in (0, 1, 2)
    }
    assert rename_old_swin(new) is new  # the new layout has no downsampling in stage 0


@given(bias=st.lists(st.floats(-1, 1), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_classifier_is_a_projection_only_without_bias(bias: list[float]) -> None:
    state = {
        "visual.trunk.classifier.weight": torch.ones(len(bias), 2),
        "visual.trunk.classifier.bias": torch.tensor(bias),
    }
    assert (classifier_to_projection(state) is state) == any(torch.tensor(bias) != 0)


def test_projection_and_classifier_are_inverses() -> None:
    state = {"visual.trunk.conv": torch.zeros(1), "visual.head.proj.weight": torch.randn(3, 2)}
    there = projection_to_classifier(state)
    assert there["visual.trunk.classifier.bias"].tolist() == [0, 0, 0]
    assert classifier_to_projection(there) == state


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "model.module."),
        *("module.model.module.", "model._orig_mod.module.model.", "_orig_mod._orig_mod.", "module." * 5),
    ],
)
def test_wrappers_are_removed_in_any_order_and_inside_a_tower(prefix: str) -> None:
    state = {f"{prefix}visual._orig_mod.trunk.x": 1, f"{prefix}logit_scale": 2}
    assert normalise(state).state == {"visual.trunk.x": 1, "logit_scale": 2}


def test_keys_that_would_become_one_stay() -> None:
    state = {"visual._orig_mod.x": 1, "visual.x": 2}
    assert normalise(state).state == state
