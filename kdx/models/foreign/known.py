"""Which of the architectures that have a name a described one is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..architectures import Architecture, names, read_architecture
from ..open_clip_architectures import open_clip_names
from ..torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # noqa: E402

TRAINING_ONLY = ("patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens")


def known_architectures() -> list[Architecture]:
    """All that have a name: kdx's first, then those of open_clip that kdx does not ship and a ClipModel can hold."""
    ours = names()
    return [read_architecture(name) for name in (*ours, *(n for n in open_clip_names() if n not in ours))]


def is_resnet(architecture: Architecture) -> bool:
    """Whether the image tower is CLIP's own ResNet (layers by stage)."""
    return isinstance(architecture["vision_cfg"].get("layers"), list | tuple)


def behaviour(architecture: Architecture) -> dict[str, Any]:
    """All that decides on the embeddings, with every default filled in: equal for equal models."""
    vision = asdict(CLIPVisionCfg(**architecture["vision_cfg"]))
    text = asdict(CLIPTextCfg(**architecture["text_cfg"]))
    for tower in (vision, text):
        tower["mlp_width"] = int(tower["width"] * tower.pop("mlp_ratio"))
        for field in TRAINING_ONLY:
            tower.pop(field, None)
    if vision["timm_model_name"]:
        vision = {k: v for k, v in vision.items() if k.startswith("timm") or k == "image_size"}
    elif is_resnet(architecture):
        vision = {field: vision[field] for field in ("layers", "width", "head_width", "image_size")}
        vision["layers"] = list(vision["layers"])
    quick_gelu = bool(architecture.get("quick_gelu"))
    return {
        "embed_dim": architecture["embed_dim"],
        "vision": vision,
        "text": text,
        "quick_gelu": quick_gelu,
        "bias": architecture.get("init_logit_bias") is not None,
    }


def named(architecture: Architecture) -> Architecture:
    """The architecture with the name of the known one that behaves the same, else with the name that it has."""
    wanted = behaviour(architecture)
    same = (known["name"] for known in known_architectures() if behaviour(known) == wanted)
    return {**architecture, "name": next(same, architecture["name"])}
