"""Every architecture that has a name, kdx's and open_clip's, and which of them a ClipModel can hold."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import Any

from kdx.core.errors import UsageError

from ..architectures import Architecture, names, read_architecture
from ..torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

from open_clip import get_model_config, list_models  # noqa: E402
from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # noqa: E402

CLIP_VOCABULARY = 49_408
TRAINING_ONLY = ("patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens")
MODEL_FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")


def find_architecture(name: str) -> Architecture:
    """A named architecture of kdx or, where kdx has none, of open_clip. Raises UsageError with the nearest name."""
    if name in names():
        return read_architecture(name)
    cleaned = name.replace("/", "-")
    if cleaned in list_models() and (config := get_model_config(cleaned)):
        return from_open_clip(cleaned, config)
    close = difflib.get_close_matches(cleaned, [*names(), *list_models()], n=1, cutoff=0.4)
    remedy = f"did you mean {close[0]}?" if close else "see `kdx models`"
    raise UsageError(f"neither kdx nor open_clip has an architecture {name!r}", remedy=remedy)


def from_open_clip(name: str, config: dict[str, Any]) -> Architecture:
    """open_clip's model configuration as an architecture of kdx: what describes the model, and its name."""
    described = {field: config[field] for field in MODEL_FIELDS if field in config}
    size = described["vision_cfg"].get("image_size", 224)
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    return {"name": name, **described, "vision_cfg": {**described["vision_cfg"], "image_size": size}}


def known_architectures() -> list[Architecture]:
    """All that a ClipModel can hold: kdx's first, then those of open_clip with other names."""
    ours = [read_architecture(name) for name in names()]
    theirs = [find_architecture(name) for name in list_models() if name not in names()]
    return [described for described in (*ours, *theirs) if why_not(described) is None]


def why_not(architecture: Architecture) -> str | None:
    """Why a ClipModel cannot hold this architecture, or None if it can.

    A ClipModel's text tower is CLIP's: causal, pooled at end-of-text, of CLIP's vocabulary, projected by a matrix.
    """
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    reasons = {
        "its text tower is a Hugging Face model": "hf_model_name" in text,
        "it writes captions too (CoCa)": "multimodal_cfg" in architecture or text.get("embed_cls"),
        "its vocabulary is not CLIP's": text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY
        or text.get("hf_tokenizer_name"),
        "its text tower is not causal": text.get("no_causal_mask"),
        "its text is not pooled at end-of-text": text.get("pool_type", "argmax") != "argmax",
        "its text projection is not a plain matrix": text.get("proj_bias") or text.get("proj_type") == "none",
        "its images are not square": not isinstance(vision.get("image_size", 224), int),
        "its image tower has an attention pooler": vision.get("attentional_pool"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


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
