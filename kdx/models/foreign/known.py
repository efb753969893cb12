"""Which of the architectures that have a name a described one is."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from ..architectures import Architecture, read_architecture, shipped_names
from ..open_clip_architectures import open_clip_names

TRAINING_ONLY = ("patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens")


@functools.cache
def known_architectures() -> list[Architecture]:
    """All that have a name: kdx's first, then those of open_clip that kdx does not ship and a ClipModel can hold."""
    ours = shipped_names()
    return [read_architecture(name) for name in (*ours, *(n for n in open_clip_names() if n not in ours))]


def is_resnet(architecture: Architecture) -> bool:
    """Whether the image tower is CLIP's own ResNet (layers by stage)."""
    return isinstance(architecture.vision_cfg.layers, tuple)


def model_key(architecture: Architecture) -> dict[str, Any]:
    """All that decides on the embeddings, with every default filled in: equal for equal models."""
    drawn = architecture.vision_cfg.to_dict()
    own_act = drawn.pop("timm_act", None)
    vision = asdict(CLIPVisionCfg(**drawn)) | {"timm_act": own_act}
    described = architecture.text_cfg.to_dict()
    own_config = described.pop("hf_config", None)
    text = asdict(CLIPTextCfg(**described)) | {"hf_config": own_config}
    for tower in (vision, text):
        tower["mlp_width"] = int(tower["width"] * tower.pop("mlp_ratio"))
        for field in TRAINING_ONLY:
            tower.pop(field, None)
    if vision["timm_model_name"]:
        vision = {k: v for k, v in vision.items() if k.startswith("timm") or k == "image_size"}
    elif is_resnet(architecture):
        vision = {field: vision[field] for field in ("layers", "width", "head_width", "image_size")}
    return {
        "embed_dim": architecture.embed_dim,
        "vision": vision,
        "text": text,
        "quick_gelu": architecture.quick_gelu,
        "bias": architecture.init_logit_bias is not None,
    }


def named(architecture: Architecture) -> Architecture:
    """The architecture with the name of the known one that is the same model, else with the name that it has."""
    wanted = model_key(architecture)
    same = (known.name for known in known_architectures() if model_key(known) == wanted)
    return architecture.changed(name=next(same, architecture.name))
