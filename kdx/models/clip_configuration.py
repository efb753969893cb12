"""What a model can be built from: checks of descriptions that come out of a file, of which nothing is trusted."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from kdx.core.config import parse
from kdx.core.errors import DataError, UsageError

from .architecture import Architecture
from .hugging_face_text import unsupported_text_reason

TOWERS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}


def check_supported(architecture: Architecture, where: str | Path) -> None:
    """Raises DataError for what cannot be built."""
    if reason := unsupported_reason(architecture):
        raise DataError(
            f"is a model that kdx cannot build: {reason}",
            where=where,
            remedy="choose another model",
        )


def parse_architecture(described: Any, where: str | Path) -> Architecture:
    """A table as an Architecture, be it one that open_clip alone can build. Raises DataError naming a key at fault."""
    try:
        if not isinstance(described, dict):
            raise UsageError("it is no table")
        architecture = parse(Architecture, described, where)
        for tower, known in TOWERS.items():
            names = {field.name for field in fields(known)}
            for key in getattr(architecture, tower).model_extra.keys() - names:
                raise UsageError(f"{tower}.{key} is not known")
    except UsageError as error:
        raise DataError(
            f"describes no model: {error.what}", where=where, remedy="get the file again"
        ) from None
    return architecture


def unsupported_reason(architecture: Architecture) -> str | None:
    """Why it cannot be built; None if it can."""
    vision, text = architecture.vision_cfg, architecture.text_cfg
    if text.hf_model_name and (reason := unsupported_text_reason(text)):
        return reason
    if text.pool_type == "none":
        return "its text tower puts out all its tokens (pool_type = none)"
    if text.embed_cls and not architecture.custom_text:
        return "a class token in its text tower needs custom_text"
    if text.proj_type == "none" and text.width != architecture.embed_dim:
        return f"its text is not projected, and {text.width} wide instead of {architecture.embed_dim}"
    if vision.timm_act and not vision.timm_model_name:
        return "timm_act is a setting of timm's image towers"
    if ":" in (vision.timm_model_name or ""):  # timm would look there for code-like settings and weights
        return f"its image tower {vision.timm_model_name} lies on a hub"
    return None
