"""What a ClipModel can be built from: checks of architectures of kdx and of configurations of open_clip.

Both are dictionaries with embed_dim, vision_cfg and text_cfg. Where they come from a file, nothing of them is trusted.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

from .clip_vocabulary import VOCAB_SIZE
from .torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # noqa: E402

IMAGE_SIZE = 224  # where a configuration gives none
TOWERS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}
WHOLE = {
    "vision_cfg": ("head_width",),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}


def why_not(described: dict[str, Any]) -> str | None:
    """Why a ClipModel cannot hold a well-formed description; None if it can.

    A ClipModel's text tower is CLIP's: causal, pooled at end-of-text, of CLIP's vocabulary, projected by a matrix.
    """
    vision, text = described["vision_cfg"], described["text_cfg"]
    if text.get("hf_model_name"):
        return f"its text tower is the Hugging Face model {text['hf_model_name']}"
    if "multimodal_cfg" in described or text.get("embed_cls"):
        return "it writes captions too (CoCa)"
    if text.get("hf_tokenizer_name"):
        return f"its vocabulary is not CLIP's but that of the tokenizer {text['hf_tokenizer_name']}"
    if (size := text.get("vocab_size", VOCAB_SIZE)) != VOCAB_SIZE:
        return f"its vocabulary is not CLIP's: it has {size} entries instead of {VOCAB_SIZE}"
    if text.get("no_causal_mask"):
        return "its text tower is not causal"
    if text.get("pool_type", "argmax") != "argmax":
        return f"its text is not pooled at end-of-text (pool_type = {text['pool_type']})"
    if text.get("proj_bias") or text.get("proj_type", "linear") != "linear":
        return "its text projection is not a plain matrix"
    image_size = vision.get("image_size", IMAGE_SIZE)
    if not isinstance(image_size, int) and len(set(image_size)) != 1:
        return f"its images are not square (image_size = {image_size})"
    if vision.get("attentional_pool"):
        return "its image tower has an attention pooler"
    if ":" in (
        vision.get("timm_model_name") or ""
    ):  # timm would look there for code-like settings and weights
        return f"its image tower {vision['timm_model_name']} lies on a hub"
    return "its image tower puts out all its tokens" if vision.get("output_tokens") else None


def check_description(described: Any, where: str | Path) -> None:
    """Raises DataError for what came out of a file and is no model, or one that a ClipModel cannot hold."""
    if fault := _malformed(described):
        raise DataError(f"describes no model: {fault}", where=where, remedy="get the file again")
    if reason := why_not(described):
        raise DataError(
            f"is a model that kdx cannot build: {reason}",
            where=where,
            remedy="take a model with CLIP's text tower",
        )


def _malformed(described: Any) -> str | None:
    if not isinstance(described, dict):
        return "it is no table"
    if missing := [part for part in ("embed_dim", *TOWERS) if part not in described]:
        return f"it has no {', no '.join(missing)}"
    if not _is_whole(described["embed_dim"]):
        return f"embed_dim = {described['embed_dim']!r}"
    for tower, known in TOWERS.items():
        settings = described[tower]
        if not isinstance(settings, dict):
            return f"{tower} is no table"
        if unknown := sorted(map(str, settings.keys() - {field.name for field in fields(known)})):
            return f"{tower}.{unknown[0]} is not known"
        for key in WHOLE[tower]:
            if key in settings and not _is_whole(settings[key]):
                return f"{tower}.{key} = {settings[key]!r}"
    size = described["vision_cfg"].get("image_size", IMAGE_SIZE)
    if not _is_whole(size) and not (
        isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_whole, size))
    ):
        return f"vision_cfg.image_size = {size!r}"
    if not isinstance(described["vision_cfg"].get("timm_model_name"), str | None):
        return f"vision_cfg.timm_model_name = {described['vision_cfg']['timm_model_name']!r}"
    if not isinstance(described.get("quick_gelu", False), bool):
        return f"quick_gelu = {described['quick_gelu']!r}"
    if not isinstance(described.get("init_logit_bias"), int | float | None):
        return f"init_logit_bias = {described['init_logit_bias']!r}"
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
