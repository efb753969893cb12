"""The weights of PE-Core in Meta's own layout (facebook/PE-Core-…: one .pt file), as open_clip's, with a timm trunk.

The text tower has open_clip's names there already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .files import State
from .renaming import Renames, rename

IMAGE, TRUNK = "visual.", "visual.trunk."
MARK = "visual.attn_pool.probe"
NAMES: Renames = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^attn_pool\.attn\.", "attn_pool."),
    (r"^attn_pool\.layernorm\.", "attn_pool.norm."),
    (r"^attn_pool\.probe$", "attn_pool.latent"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\bln_([12])\.", r"norm\1."),
    (r"\bin_proj_", "qkv."),
    (r"\bout_proj\.", "proj."),
    (r"\bmlp\.c_fc\.", "mlp.fc1."),
    (r"\bmlp\.c_proj\.", "mlp.fc2."),
)
POOLER = "attn_pool.qkv."


def from_perception_encoder(state: State) -> State:
    """state: with Meta's names, else nothing is changed."""
    if MARK not in state:
        return state
    converted: State = {}
    for key, value in state.items():
        if not key.startswith(IMAGE) or not isinstance(value, Tensor):
            converted[key] = value
            continue
        name = rename(key.removeprefix(IMAGE), NAMES)
        if name == "cls_token":
            value = value[None, None]
        elif name == "pos_embed":
            value = value[None]
        elif name == "head.weight" and value.ndim == 2:  # multiplied from the right there
            value = value.T
            converted[f"{TRUNK}head.bias"] = torch.zeros(len(value))
        if name.startswith(POOLER) and len(value) % 3 == 0:
            kind, width = name.removeprefix(POOLER), len(value) // 3
            converted[f"{TRUNK}attn_pool.q.{kind}"] = value[:width]
            converted[f"{TRUNK}attn_pool.kv.{kind}"] = value[width:]
        else:
            converted[f"{TRUNK}{name}"] = value
    return converted
