"""Facts of kdx/models/clip_configuration.py."""

from typing import Any

import pytest

from kdx.core.errors import DataError
from kdx.models.clip_configuration import check_description, why_not

PLAIN: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"width": 64}}


@pytest.mark.parametrize(
    ("tower", "setting", "reason"),
    [
        ("text_cfg", {"vocab_size": 32000}, "its vocabulary is not CLIP's: it has 32000 entries"),
        ("text_cfg", {"embed_cls": True}, "CoCa"),
        ("text_cfg", {"pool_type": "last"}, "not pooled at end-of-text (pool_type = last)"),
        ("text_cfg", {"proj_bias": True}, "its text projection is not a plain matrix"),
        ("text_cfg", {"proj_type": "none"}, "its text projection is not a plain matrix"),
        ("vision_cfg", {"image_size": [32, 48]}, "its images are not square"),
        ("vision_cfg", {"attentional_pool": True}, "its image tower has an attention pooler"),
        ("vision_cfg", {"timm_model_name": "hf-hub:timm/resnet18.a1_in1k"}, "lies on a hub"),
        ("vision_cfg", {"output_tokens": True}, "its image tower puts out all its tokens"),
    ],
)
def test_a_configuration_is_refused_for_what_a_clip_model_cannot_hold(
    tower: str, setting: dict[str, Any], reason: str
) -> None:
    assert why_not(PLAIN) is None
    found = why_not({**PLAIN, tower: {**PLAIN[tower], **setting}})
    assert found is not None and reason in found


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"embed_dim": "x"}, "embed_dim = 'x'"),
        ({"embed_dim": True}, "embed_dim = True"),
        ({"vision_cfg": [1]}, "vision_cfg is no table"),
        ({"text_cfg": None}, "text_cfg is no table"),
        ({"vision_cfg": {"colour": "blue"}}, "vision_cfg.colour is not known"),
        ({"vision_cfg": {"image_size": None}}, "vision_cfg.image_size = None"),
        ({"vision_cfg": {"image_size": [32]}}, r"vision_cfg.image_size = \[32\]"),
        ({"vision_cfg": {"image_size": -3}}, "vision_cfg.image_size = -3"),
        ({"vision_cfg": {"timm_model_name": 3}}, "vision_cfg.timm_model_name = 3"),
        ({"text_cfg": {"heads": 0}}, "text_cfg.heads = 0"),
        ({"text_cfg": {"width": "big"}}, "text_cfg.width = 'big'"),
        ({"quick_gelu": "yes"}, "quick_gelu = 'yes'"),
        ({"init_logit_bias": "x"}, "init_logit_bias = 'x'"),
    ],
)
def test_what_describes_no_model_is_refused_by_its_key(change: dict[str, Any], fault: str) -> None:
    check_description(PLAIN, "file.json")
    with pytest.raises(DataError, match=f"describes no model: {fault}") as caught:
        check_description({**PLAIN, **change}, "file.json")
    assert caught.value.where == "file.json"


def test_what_is_no_description_at_all_is_refused() -> None:
    for described in (None, [], {"embed_dim": 8}):
        with pytest.raises(DataError, match="describes no model"):
            check_description(described, "file.json")
