"""Files in the layouts of a model's authors, named here by tables of their own; open_clip and timm read them too.

What open_clip's or timm's reader makes of such a file shows that the names are the authors'. The key sets are whole:
each tensor is one number, so no memory is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip.convert
import pytest
import timm
import timm.models.eva
import torch
from torch import Tensor

from kdx.core.errors import DataError
from kdx.models.architecture import TextConfig
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.foreign.identify import identify
from kdx.models.foreign.importing import import_checkpoint
from kdx.models.foreign.layouts import normalise

from ..open_clip_cuts import cut_trunks

FullKeys = Callable[[Architecture], dict[str, Tensor]]
Names = tuple[tuple[str, str], ...]  # from open_clip's to the authors'

TOWERS: Names = ((r"^visual\.trunk\.", "image_encoder.model."), (r"^text\.", "text_encoder."))
FASTVIT: Names = (
    (r"\.stem\.", ".patch_embed."),
    (r"\.final_conv\.", ".conv_exp."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.(conv|fc1|fc2)\.", r".convffn.\1."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.gamma$", ""),
    (r"\.head\.fc\.weight$", ".head.proj"),
    # one block and one halving a stage: 0, then 1 and 2, and so on; a stage's positions come before its blocks
    (r"\.stages\.0\.blocks\.", ".network.0."),
    (r"\.stages\.1\.downsample\.", ".network.1."),
    (r"\.stages\.1\.blocks\.", ".network.2."),
    (r"\.stages\.2\.downsample\.", ".network.3."),
    (r"\.stages\.2\.blocks\.", ".network.4."),
    (r"\.stages\.3\.downsample\.", ".network.5."),
    (r"\.stages\.3\.pos_emb\.pos_enc\.", ".network.6.pe."),
    (r"\.stages\.3\.blocks\.", ".network.7."),
)
VIT: Names = (
    (r"\.patch_embed\.backbone\.(\d)\.conv\.", r".patch_emb.\1.block.conv."),
    (r"\.patch_embed\.backbone\.(\d)\.bn\.", r".patch_emb.\1.block.norm."),
    (r"model\.blocks\.", "model.transformer."),
    (r"\.norm1\.", ".pre_norm_mha.0."),
    (r"\.attn\.qkv\.", ".pre_norm_mha.1.qkv_proj."),
    (r"\.attn\.proj\.", ".pre_norm_mha.1.out_proj."),
    (r"\.norm2\.", ".pre_norm_ffn.0."),
    (r"\.mlp\.fc1\.", ".pre_norm_ffn.1."),
    (r"\.mlp\.fc2\.", ".pre_norm_ffn.4."),
    (r"model\.norm\.", "model.post_transformer_norm."),
    (r"model\.head\.weight$", "model.classifier.proj"),
    (r"\.pos_embed$", ".pos_embed.pos_embed.pos_embed"),
)
APPLES_TEXT: Names = (
    (r"\.token_embedding\.", ".embedding_layer."),
    (r"\.positional_embedding$", ".positional_embedding.pos_embed.pos_embed"),
    (r"\.transformer\.resblocks\.", ".transformer."),
    (r"\.ln_1\.", ".pre_norm_mha.0."),
    (r"\.attn\.in_proj_", ".pre_norm_mha.1.qkv_proj."),
    (r"\.attn\.out_proj\.", ".pre_norm_mha.1.out_proj."),
    (r"\.ln_2\.", ".pre_norm_ffn.0."),
    (r"\.mlp\.c_fc\.", ".pre_norm_ffn.1."),
    (r"\.mlp\.c_proj\.", ".pre_norm_ffn.4."),
    (r"\.ln_final\.", ".final_layer_norm."),
    (r"\.text_projection$", ".projection_layer"),
)
METAS: Names = (
    (r"^text\.", ""),
    (r"^visual\.trunk\.", "visual."),
    (r"visual\.patch_embed\.proj\.", "visual.conv1."),
    (r"visual\.cls_token$", "visual.class_embedding"),
    (r"visual\.pos_embed$", "visual.positional_embedding"),
    (r"visual\.norm_pre\.", "visual.ln_pre."),
    (r"visual\.norm\.", "visual.ln_post."),
    (r"visual\.head\.weight$", "visual.proj"),
    (r"visual\.blocks\.", "visual.transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.attn_pool\.latent$", ".attn_pool.probe"),
    (r"\.attn_pool\.norm\.", ".attn_pool.layernorm."),
    (r"\.attn_pool\.proj\.", ".attn_pool.attn.out_proj."),
)
BAAIS: Names = (
    (r"^visual\.trunk\.", "visual."),
    (r"\.attn\.norm\.", ".attn.inner_attn_ln."),
    (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
    (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
)
SWIGLU: Names = ((r"\.mlp\.fc2\.", ".mlp.w3."),)


def _named(state: dict[str, Tensor], *tables: Names) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for old, new in (line for table in tables for line in table):
            key = re.sub(old, new, key)
        renamed[key] = value
    assert len(renamed) == len(state)
    return renamed


def _apples(state: dict[str, Tensor], image: Names) -> dict[str, Tensor]:
    images = {key: value for key, value in state.items() if not key.startswith("text.")}
    texts = {key: value for key, value in state.items() if key.startswith("text.")}
    theirs = _named(images, TOWERS, image) | _named(texts, TOWERS, APPLES_TEXT)
    for key in ("image_encoder.model.head.fc.bias", "image_encoder.model.head.bias"):
        theirs.pop(key, None)
    for key in ("image_encoder.model.head.proj", "image_encoder.model.classifier.proj"):
        if key in theirs:
            theirs[key] = theirs[key].T
    if (places := "image_encoder.model.pos_embed.pos_embed.pos_embed") in theirs:
        theirs[places] = theirs[places][None]  # [1, 1, N, W]
    places = "text_encoder.positional_embedding.pos_embed.pos_embed"
    theirs[places] = theirs[places][None, None]  # [1, 1, L, W]
    return theirs


def _without_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The projection has none in the authors' layouts, and timm's trunk then has zeros."""
    zero = {
        key: torch.zeros_like(value) for key, value in state.items() if re.search(r"trunk\.head.*bias$", key)
    }
    return state | zero


def _assert_equal(ours: dict[str, Any], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key].shape == value.shape and torch.equal(ours[key], value), key


@pytest.mark.parametrize(("name", "image"), [("MobileCLIP-S1", FASTVIT), ("MobileCLIP-B", VIT)])
def test_apples_mobileclip_is_read_as_open_clip_reads_it(
    name: str, image: Names, full_keys: FullKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as cutting:
        cut_trunks(cutting)
        state = _without_bias(full_keys(read_architecture(name)))
        theirs = _apples(state, image)
        with torch.device("meta"):
            model: Any = build_model(read_architecture(name))
        converted = open_clip.convert.convert_state_dict(model, theirs)
        _assert_equal(converted, state)
    normalised = normalise(theirs)
    _assert_equal(normalised.state, state)
    assert any("Apple's MobileCLIP" in change for change in normalised.changes)


def test_metas_perception_encoder_is_read_as_timm_reads_it(full_keys: FullKeys) -> None:
    architecture = read_architecture("PE-Core-T-16-384")
    state = _without_bias(full_keys(architecture))
    theirs = _named(state, METAS)
    del theirs["visual.head.bias"]
    theirs["visual.proj"] = theirs["visual.proj"].T
    theirs["visual.class_embedding"] = theirs["visual.class_embedding"][0, 0]
    theirs["visual.positional_embedding"] = theirs["visual.positional_embedding"][0]
    for kind in ("weight", "bias"):
        parts = [theirs.pop(f"visual.attn_pool.{part}.{kind}") for part in ("q", "kv")]
        theirs[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    converted: Any = timm.models.eva.checkpoint_filter_fn(theirs, torch.nn.Module())
    image = {key: value for key, value in state.items() if key.startswith("visual.")}
    _assert_equal({f"visual.trunk.{key}": value for key, value in converted.items()}, image)
    normalised = normalise({f"module.{key}": value for key, value in theirs.items()})
    texts = {key.removeprefix("text."): value for key, value in state.items()}
    _assert_equal(normalised.state, texts)
    assert identify(normalised.state, "x", quick_gelu=False).architecture.name == "PE-Core-T-16-384"


@pytest.mark.parametrize(("name", "more"), [("EVA02-B-16", SWIGLU), ("EVA01-g-14", ())])
def test_baais_eva_clip_is_read_as_timm_reads_it(name: str, more: Names, full_keys: FullKeys) -> None:
    architecture = read_architecture(name)
    state = full_keys(architecture)
    images = {key: value for key, value in state.items() if not key.startswith("text.")}
    texts = {key: value for key, value in state.items() if key.startswith("text.")}
    theirs = _named(images, BAAIS, more) | texts
    theirs |= {f"visual.{place}rope.freqs_cos": torch.zeros(1) for place in ("", "blocks.0.attn.")}
    with torch.device("meta"):
        trunk: Any = build_model(architecture).visual.trunk
    converted: Any = timm.models.eva.checkpoint_filter_fn(theirs, trunk)
    own = {key: value for key, value in images.items() if key.startswith("visual.")}
    _assert_equal({f"visual.trunk.{key}": value for key, value in converted.items()}, own)
    normalised = normalise(theirs)
    _assert_equal(normalised.state, state)
    theirs["text.logit_scale"] = theirs.pop("logit_scale")
    _assert_equal(normalise(theirs).state, state)
    assert identify(normalised.state, "x", quick_gelu=False).architecture.name == name


def test_a_mobileclip_whose_branches_are_merged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_trunks(monkeypatch)
    text = TextConfig(context_length=16, vocab_size=49408, width=64, heads=1, layers=2)
    model: Any = build_model(read_architecture("MobileCLIP2-S0").changed(text_cfg=text))
    merged = timm.utils.reparameterize_model(model)  # pyright: ignore[reportAttributeAccessIssue]
    torch.save(merged.state_dict(), tmp_path / "x.pt")
    for named in (None, "MobileCLIP2-S0"):
        with pytest.raises(DataError, match="branches are merged for inference") as caught:
            import_checkpoint(str(tmp_path / "x.pt"), tmp_path / "out", architecture=named)
        assert caught.value.where == str(tmp_path / "x.pt") and caught.value.remedy


def test_a_text_tower_of_convolutions_is_refused(tmp_path: Path) -> None:
    keys = ("image_encoder.model.head.proj", "text_encoder.transformer.0.token_mixer.mixer.rbr_skip.weight")
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "mobileclip_s0.pt")
    with pytest.raises(DataError, match="MobileCLIP-S0 of the first version") as caught:
        import_checkpoint(str(tmp_path / "mobileclip_s0.pt"), tmp_path / "out")
    assert caught.value.remedy and "MobileCLIP2-S0" in caught.value.remedy


def test_a_tinyclip_of_automatic_inheritance_is_refused(small_model: Any, tmp_path: Path) -> None:
    state = dict(small_model.state_dict())
    place = "visual.transformer.resblocks.1.attn.in_proj_weight"
    state[place] = state[place][:192]
    state = {
        f"image_encoder_without_ddp.{key}" if key.startswith("visual.") else key: state[key] for key in state
    }
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"layers are not all alike .*TinyCLIP") as caught:
        import_checkpoint(str(tmp_path / "x.pt"), tmp_path / "out")
    assert place in caught.value.what
