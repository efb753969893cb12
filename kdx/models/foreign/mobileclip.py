"""The weights of MobileCLIP in Apple's own layout (apple/ml-mobileclip), as open_clip's, which has timm's trunks.

Apple's image tower is a flat list of modules, timm's is in stages: a new one begins where the list has a `proj`, which
halves the side. MobileCLIP2 is published in open_clip's layout. Of MobileCLIP-B open_clip's stem has no padding, where
Apple's has one pixel, and its norms have a smaller epsilon: kdx embeds as open_clip does.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch import Tensor

from .files import State
from .renaming import Renames, rename

IMAGE, TEXT = "image_encoder.model.", "text_encoder."
PLACE = re.compile(r"network\.(\d+)\.(.+)")
FASTVIT: Renames = (  # S0, S1, S2
    (r"^patch_embed\.", "stem."),
    (r"^conv_exp\.", "final_conv."),
    (r"\brbr_conv\.", "conv_kxk."),
    (r"\brbr_scale\.", "conv_scale."),
    (r"\brbr_skip\.", "identity."),
    (r"\blkb_origin\.", "large_conv."),
    (r"\bconvffn\.", "mlp."),
    (r"\bse\.reduce\.", "se.fc1."),
    (r"\bse\.expand\.", "se.fc2."),
    (r"\b(layer_scale(?:_\d)?)$", r"\1.gamma"),
    (r"^head\.proj$", "head.fc.weight"),
)
ENCODER: Renames = (  # a layer of a transformer, in either tower
    (r"\bpre_norm_mha\.1\.", "attn."),
    (r"^pos(?:itional)?_embed(?:ding)?\.pos_embed\.pos_embed$", "pos_embed"),
)
VIT: Renames = (  # B
    *ENCODER,
    (r"^patch_emb\.(\d)\.block\.conv\.", r"patch_embed.backbone.\1.conv."),
    (r"^patch_emb\.(\d)\.block\.norm\.", r"patch_embed.backbone.\1.bn."),
    (r"^transformer\.", "blocks."),
    (r"\bpre_norm_mha\.0\.", "norm1."),
    (r"\bpre_norm_ffn\.0\.", "norm2."),
    (r"\bpre_norm_ffn\.1\.", "mlp.fc1."),
    (r"\bpre_norm_ffn\.4\.", "mlp.fc2."),
    (r"\battn\.qkv_proj\.", "attn.qkv."),
    (r"\battn\.out_proj\.", "attn.proj."),
    (r"^post_transformer_norm\.", "norm."),
    (r"^classifier\.proj$", "head.weight"),
)
TEXTS: Renames = (
    *ENCODER,
    (r"^pos_embed$", "positional_embedding"),
    (r"^embedding_layer\.", "token_embedding."),
    (r"^transformer\.", "transformer.resblocks."),
    (r"\bpre_norm_mha\.0\.", "ln_1."),
    (r"\bpre_norm_ffn\.0\.", "ln_2."),
    (r"\bpre_norm_ffn\.1\.", "mlp.c_fc."),
    (r"\bpre_norm_ffn\.4\.", "mlp.c_proj."),
    (r"\battn\.qkv_proj\.", "attn.in_proj_"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^projection_layer$", "text_projection"),
)
PROJECTIONS = (
    "head.fc.weight",
    "head.weight",
)  # multiplied from the right by Apple, linear layers with a bias in timm


def from_mobileclip(state: State) -> State:
    """state: of S0, S1 or S2 with Apple's names, else nothing is changed."""
    halving = (re.match(rf"{IMAGE}network\.(\d+)\.proj\.", key) for key in state)
    begins = sorted({int(found[1]) for found in halving if found})
    return _converted(state, lambda name: _fastvit_name(name, begins)) if begins else state


def from_mobileclip_b(state: State) -> State:
    """state: of B with Apple's names, else nothing is changed."""
    if not any(key.startswith(f"{IMAGE}patch_emb.") for key in state):
        return state
    return _converted(state, lambda name: rename(name, VIT))


def _converted(state: State, image_name: Callable[[str], str]) -> State:
    converted: State = {}
    for key, value in state.items():
        if key.startswith(IMAGE):
            name = image_name(key.removeprefix(IMAGE))
            if name in PROJECTIONS and isinstance(value, Tensor) and value.ndim == 2:
                value = value.T
                converted[f"visual.trunk.{name.removesuffix('weight')}bias"] = torch.zeros(len(value))
            if name == "pos_embed" and isinstance(value, Tensor):
                value = value.flatten(0, -3)  # [1, 1, N, W] to [1, N, W]
            converted[f"visual.trunk.{name}"] = value
        elif key.startswith(TEXT):
            name = rename(key.removeprefix(TEXT), TEXTS)
            if name == "positional_embedding" and isinstance(value, Tensor):
                value = value.flatten(0, -2)  # [1, 1, L, W] to [L, W]
            converted[f"text.{name}"] = value
        else:
            converted[key] = value
    return converted


def _fastvit_name(name: str, begins: list[int]) -> str:
    """begins: the places in the list where a stage begins."""
    if found := PLACE.fullmatch(name):
        place, rest = int(found[1]), found[2]
        stage = f"stages.{bisect_right(begins, place)}"
        if rest.startswith("proj."):
            name = f"{stage}.downsample.{rest}"
        elif rest.startswith("pe."):
            name = f"{stage}.pos_emb.pos_enc.{rest.removeprefix('pe.')}"
        else:
            name = f"{stage}.blocks.{rest}"
    return rename(name, FASTVIT)
