"""Facts of kdx/models/clip_configuration.py."""

from typing import Any

import pytest

from kdx.core.errors import DataError
from kdx.models.clip_configuration import check_supported, parse_architecture, unsupported_reason

PLAIN: dict[str, Any] = {
    "name": "x",
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32},
    "text_cfg": {"width": 64},
}


@pytest.mark.parametrize(
    ("tower", "setting", "reason"),
    [
        ("text_cfg", {"embed_cls": True}, "a class token in its text tower needs custom_text"),
        ("text_cfg", {"pool_type": "none"}, "its text tower puts out all its tokens"),
        ("text_cfg", {"proj_type": "none"}, "its text is not projected, and 64 wide instead of 8"),
        ("vision_cfg", {"timm_model_name": "hf-hub:timm/resnet18.a1_in1k"}, "lies on a hub"),
    ],
)
def test_a_configuration_is_refused_for_what_cannot_be_built(
    tower: str, setting: dict[str, Any], reason: str
) -> None:
    check_supported(parse_architecture(PLAIN, "x"), "x")
    described = parse_architecture({**PLAIN, tower: {**PLAIN[tower], **setting}}, "x")
    assert reason in (unsupported_reason(described) or "")
    with pytest.raises(DataError) as caught:
        check_supported(described, "file.json")
    assert caught.value.where == "file.json"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"embed_dim": "x"}, "embed_dim = 'x'"),
        ({"embed_dim": True}, "embed_dim = True"),
        ({"vision_cfg": [1]}, "vision_cfg = [1]"),
        ({"text_cfg": None}, "text_cfg = None"),
        ({"colour": "blue"}, "colour"),
        ({"vision_cfg": {"colour": "blue"}}, "vision_cfg.colour"),
        ({"vision_cfg": {"image_size": None}}, "vision_cfg.image_size = None"),
        ({"vision_cfg": {"image_size": [32]}}, "vision_cfg.image_size = [32]"),
        ({"vision_cfg": {"image_size": [32, 48]}}, "vision_cfg.image_size = [32, 48]"),
        ({"vision_cfg": {"layers": [2, "x"]}}, "vision_cfg.layers = [2, 'x']"),
        ({"vision_cfg": {"mlp_ratio": "big"}}, "vision_cfg.mlp_ratio = 'big'"),
        ({"vision_cfg": {"mlp_ratio": float("inf")}}, "vision_cfg.mlp_ratio = inf"),
        ({"text_cfg": {"no_causal_mask": "yes"}}, "text_cfg.no_causal_mask = 'yes'"),
        ({"preprocess_cfg": {"std": [0.5, 0, 0.5]}}, "preprocess_cfg.std"),
        ({"vision_cfg": {"image_size": -3}}, "vision_cfg.image_size = -3"),
        ({"vision_cfg": {"timm_model_name": 3}}, "vision_cfg.timm_model_name = 3"),
        ({"text_cfg": {"heads": 0}}, "text_cfg.heads = 0"),
        ({"text_cfg": {"width": "big"}}, "text_cfg.width = 'big'"),
        ({"quick_gelu": "yes"}, "quick_gelu = 'yes'"),
        ({"init_logit_bias": "x"}, "init_logit_bias = 'x'"),
    ],
)
def test_what_describes_no_model_is_refused_by_its_key(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_architecture({**PLAIN, **change}, "file.json")
    assert fault in caught.value.what and caught.value.where == "file.json"


def test_what_is_no_description_at_all_is_refused() -> None:
    for described in (None, [], {"embed_dim": 8}):
        with pytest.raises(DataError) as caught:
            parse_architecture(described, "file.json")
        assert caught.value.where == "file.json"
