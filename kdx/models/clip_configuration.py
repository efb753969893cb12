"""What a ClipModel can be built from: checks of descriptions that come out of a file, of which nothing is trusted."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from kdx.core.config import parse
from kdx.core.errors import DataError, UsageError

from .architecture import Architecture
from .clip_vocabulary import VOCAB_SIZE

TOWERS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}


def check_supported(architecture: Architecture, where: str | Path) -> None:
    """Raises DataError for what a ClipModel cannot hold."""
    if reason := unsupported_reason(architecture):
        raise DataError(
            f"is a model that kdx cannot build: {reason}",
            where=where,
            remedy="take a model with CLIP's text tower",
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
    """Why a ClipModel cannot hold it; None if it can.

    A ClipModel's text tower is CLIP's: causal, pooled at end-of-text, of CLIP's vocabulary, projected by a matrix.
    """
    vision, text = architecture.vision_cfg, architecture.text_cfg
    if text.hf_model_name:
        return f"its text tower is the Hugging Face model {text.hf_model_name}"
    if text.embed_cls:
        return "it writes captions too (CoCa)"
    if text.hf_tokenizer_name:
        return f"its vocabulary is not CLIP's but that of the tokenizer {text.hf_tokenizer_name}"
    if text.vocab_size != VOCAB_SIZE:
        return f"its vocabulary is not CLIP's: it has {text.vocab_size} entries instead of {VOCAB_SIZE}"
    if text.tokenizer_mode or text.tokenizer_kwargs:
        return "its texts are not split by CLIP's rules (tokenizer_mode, tokenizer_kwargs)"
    if text.no_causal_mask:
        return "its text tower is not causal"
    if text.pool_type != "argmax":
        return f"its text is not pooled at end-of-text (pool_type = {text.pool_type})"
    if text.proj_bias or text.proj_type != "linear":
        return "its text projection is not a plain matrix"
    if vision.attentional_pool:
        return "its image tower has an attention pooler"
    if ":" in (vision.timm_model_name or ""):  # timm would look there for code-like settings and weights
        return f"its image tower {vision.timm_model_name} lies on a hub"
    return "its image tower puts out all its tokens" if vision.output_tokens else None
