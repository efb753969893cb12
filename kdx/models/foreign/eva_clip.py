"""The weights of EVA-CLIP in BAAI's own layout (QuanSun/EVA-CLIP: .pt files), as open_clip's, with a timm trunk.

The text tower has open_clip's names there already.
"""

from __future__ import annotations

import re

from .files import State
from .renaming import Renames, rename

IMAGE, TRUNK = "visual.", "visual.trunk."
MARKS = ("visual.cls_token", "visual.patch_embed.proj.weight")
COMPUTED = re.compile(r"visual\.(?:blocks\.\d+\.attn\.)?rope\.freqs_(?:cos|sin)")
SCALE = "text.logit_scale"
NAMES: Renames = (
    (r"\battn\.inner_attn_ln\.", "attn.norm."),
    (r"\bmlp\.ffn_ln\.", "mlp.norm."),
    (r"\bmlp\.w1\.", "mlp.fc1_g."),
    (r"\bmlp\.w2\.", "mlp.fc1_x."),
    (r"\bmlp\.w3\.", "mlp.fc2."),
)
SPLIT: Renames = (
    (r"\battn\.([qv])_bias$", r"attn.\1_proj.bias"),
)  # where query, key and value are separate layers


def from_eva_clip(state: State) -> State:
    """state: with BAAI's names, else nothing is changed. The tables of rotary positions are dropped: computed.

    Some of the files keep the scale of the logits with the text tower.
    """
    if not all(mark in state for mark in MARKS):
        return state
    table = NAMES + (SPLIT if "visual.blocks.0.attn.q_proj.weight" in state else ())
    if "logit_scale" not in state and SCALE in state:
        state = {"logit_scale" if key == SCALE else key: value for key, value in state.items()}
    return {
        f"{TRUNK}{rename(key.removeprefix(IMAGE), table)}" if key.startswith(IMAGE) else key: value
        for key, value in state.items()
        if not COMPUTED.fullmatch(key)
    }
