"""Facts of kdx/models/foreign/identify.py: from keys and shapes to the architecture, at full key sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdx.core.errors import DataError
from kdx.models.architectures import Architecture, read_architecture
from kdx.models.foreign.files import read_state_dict
from kdx.models.foreign.fitting import check_fit
from kdx.models.foreign.identify import identify
from kdx.models.foreign.layouts import normalise

FullKeys = Callable[[Architecture], dict[str, Tensor]]

# the models of CLIP-KD
TOWERS = [
    *("ViT-L-14", "ViT-B-16", "ViT-T-16", "RN101", "RN50", "ResNet-18", "MobileViT-S", "MobileViT-XXS"),
    *("Swin-T", "MobileNetV3-S", "EfficientNet-B0"),
]


def _old_swin(state: dict[str, Any]) -> dict[str, Any]:
    """Swin-T as timm 0.6 wrote it: 17 buffers more, the downsampling of stages 1, 2, 3 in 0, 1, 2."""
    trunk = "visual.trunk."
    old = {
        re.sub(r"layers\.([123])\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key): value
        for key, value in state.items()
    }
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            prefix = f"{trunk}layers.{stage}.blocks.{block}."
            old[f"{prefix}attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
            if stage < 3 and block % 2:
                old[f"{prefix}attn_mask"] = torch.zeros(4 ** (3 - stage), 49, 49)
    assert len(old) == len(state) + 17
    return old


@pytest.mark.parametrize("name", TOWERS)
def test_every_model_of_clip_kd_is_known_by_its_file(name: str, full_keys: FullKeys, tmp_path: Path) -> None:
    """Layout 7.2: {epoch, name, state_dict of the DDP-wrapped model, optimizer, scaler}."""
    state = full_keys(read_architecture(name))
    written = _old_swin(state) if name == "Swin-T" else state
    if name == "MobileNetV3-S":
        assert written["visual.head.proj.weight"].shape == (512, 1024)
    content = {
        "epoch": 32,
        "name": f"{name}_kd",
        "state_dict": {f"module.{key}": value for key, value in written.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {"scale": 65536.0},
    }
    torch.save(content, tmp_path / "ep32.pt")
    normalised = normalise(read_state_dict(tmp_path / "ep32.pt"))
    found = identify(normalised.state, "ep32.pt", quick_gelu=normalised.from_openai)
    assert found.architecture.name == name
    check_fit(normalised.state, found.architecture, "ep32.pt")
    assert {key: value.flatten()[0] for key, value in normalised.state.items()} == {
        key: value.flatten()[0] for key, value in state.items()
    }


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-H-14", "ViT-bigG-14", "ViT-M-16-alt", "RN50x4"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clips_models_are_known_with_their_heads(
    name: str, quick_gelu: bool, full_keys: FullKeys
) -> None:
    """The heads of ViT-H (80 wide) and bigG (104) follow from the name that the shapes give."""
    described = read_architecture(name)
    found = identify(full_keys(described), "x", quick_gelu=quick_gelu).architecture
    assert found.name == name + ("-quickgelu" if quick_gelu else "")
    assert found.vision_cfg == described.vision_cfg
    assert found.quick_gelu == quick_gelu


@pytest.mark.parametrize(
    "vision",
    [
        {"image_size": 96, "layers": 3, "width": 320, "patch_size": 12},
        {"image_size": 32, "layers": 1, "width": 96, "patch_size": 16, "mlp_ratio": 2.5, "head_width": 96},
        {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "patch_size": 8,
            "no_ln_pre": True,
            "ls_init_value": 1e-4,
        },
    ],
    ids=["vit", "odd widths", "resnet", "scaled"],
)
def test_sizes_that_no_known_model_has_are_read_from_the_shapes(
    vision: dict[str, Any], full_keys: FullKeys
) -> None:
    text = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}
    new = {"name": "new", "embed_dim": 40, "vision_cfg": vision, "text_cfg": text}
    state = full_keys(Architecture.model_validate(new))
    found = identify(state, "x", quick_gelu=False)
    described = found.architecture
    assert described.embed_dim == 40 and described.text_cfg.to_dict() == text
    assert described.vision_cfg.to_dict() == vision
    check_fit(state, described, "x")
    assert any(line.startswith("heads: 64 wide") for line in found.assumptions)
    assert any(line.startswith("how texts are read: causally") for line in found.assumptions)
    assert any(line.startswith("the activation") for line in found.assumptions)


def test_a_known_trunk_with_another_text_tower_is_built_with_it(full_keys: FullKeys) -> None:
    described = read_architecture("MobileViT-XXS")
    text = described.text_cfg.changed(layers=2, width=128, heads=2)
    state = full_keys(described.changed(embed_dim=64, text_cfg=text))
    found = identify(state, "x", quick_gelu=False).architecture
    assert found.name == "clip-mobilevit_xxs" and found.text_cfg == text
    check_fit(state, found, "x")


@pytest.mark.parametrize("name", ["MobileCLIP2-S0", "ViT-B-16-SigLIP2"])
def test_a_text_tower_of_another_size_is_read_as_known_ones_beside_that_trunk(
    name: str, full_keys: FullKeys
) -> None:
    """Whether it is causal and where it is pooled no weight shows."""
    described = read_architecture(name)
    text = described.text_cfg.changed(width=128, heads=2, layers=2)
    state = full_keys(described.changed(text_cfg=text))
    found = identify(normalise(state).state, "file.pt", quick_gelu=False)
    assert found.architecture.text_padding == described.text_padding == "full"
    assert found.architecture.text_cfg.tokenizer_name == described.text_cfg.tokenizer_name
    assert found.architecture.text_cfg.layers == 2
    assert any(line.startswith("how texts are read: not causally") for line in found.assumptions)


def test_preprocessing_is_that_of_the_published_weights_where_the_shapes_tell_them(
    full_keys: FullKeys,
) -> None:
    published = identify(full_keys(read_architecture("ViT-H-14-378")), "x", quick_gelu=True)
    assert published.architecture.preprocess.resize_mode == "squash"
    assert published.assumptions[0].endswith("as all of open_clip's published weights of this architecture")
    own = identify(full_keys(read_architecture("ViT-T-16")), "x", quick_gelu=False)
    assert own.architecture.preprocess.resize_mode == "shortest"
    assert "OpenAI's mean and std" in own.assumptions[0]


def test_a_logit_bias_is_part_of_the_model(small_vit: Architecture, full_keys: FullKeys) -> None:
    state = full_keys(small_vit.changed(init_logit_bias=-10.0))
    check_fit(state, identify(state, "x", quick_gelu=False).architecture, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positional_embedding": torch.zeros(16)}, r"positional_embedding is \[16\], with 2 dimensions"),
        ({"visual.positional_embedding": torch.zeros(16, 128)}, "places for 15 patches, which is no square"),
        ({"token_embedding.weight": None}, "is no CLIP model of a known layout: there is no token_embedding"),
        ({"visual.conv1.weight": None}, "has no tensor visual.conv1.weight"),
        ({"cls_emb": torch.zeros(4)}, "a class token in its text tower"),
        ({"transformer.embeddings.word": torch.zeros(4)}, "a Hugging Face text tower"),
        ({"vision_model.x": torch.zeros(4)}, "holds a Hugging Face model"),
        ({"visual.trunk.x": torch.zeros(4)}, "a timm image tower that kdx does not recognise"),
    ],
)
def test_what_is_no_clip_of_this_kind_is_refused(
    change: dict[str, Any], message: str, small_vit: Architecture, full_keys: FullKeys
) -> None:
    state = {key: value for key, value in {**full_keys(small_vit), **change}.items() if value is not None}
    with pytest.raises(DataError, match=message) as caught:
        identify(state, "file.pt", quick_gelu=False)
    assert caught.value.where == "file.pt" and caught.value.remedy


def test_a_huge_number_in_a_key_does_not_decide_how_much_is_built(
    small_vit: Architecture, full_keys: FullKeys
) -> None:
    state = full_keys(small_vit) | {"transformer.resblocks.999999999.mlp.c_fc.weight": torch.zeros(1, 1)}
    with pytest.raises(DataError):
        found = identify(state, "x", quick_gelu=False)
        check_fit(state, found.architecture, "x")


@pytest.mark.parametrize(
    "name", ["coca_base", "coca_ViT-B-32", "roberta-ViT-B-32", "ViT-SO400M-16-SigLIP-i18n-256"]
)
def test_a_model_whose_sizes_cannot_be_read_off_its_weights_is_known_whole(
    name: str, full_keys: FullKeys
) -> None:
    state = full_keys(read_architecture(name))
    if name.startswith("coca"):
        state |= {f"text_decoder.resblocks.{n}.ln_1.weight": torch.ones(1) for n in range(7)}
    normalised = normalise(state)
    assert identify(normalised.state, "x", quick_gelu=False).architecture.name == name
    dropped = "dropped the decoder that writes captions (CoCa): kdx has its two towers alone (7 entries)"
    assert (dropped in normalised.changes) == name.startswith("coca")


def test_where_it_is_not_whole_those_of_its_vocabulary_are_named(full_keys: FullKeys) -> None:
    state = full_keys(read_architecture("coca_ViT-B-32"))
    del state["text.ln_final.weight"]
    with pytest.raises(DataError, match="may be coca_ViT-B-32 or coca_ViT-L-14") as caught:
        identify(normalise(state).state, "x", quick_gelu=False)
    assert "--architecture" in str(caught.value.remedy)
