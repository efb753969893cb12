"""Architectures that kdx does not ship: any of open_clip's by its name, and any timm trunk as `timm:NAME+TEXT`.

What they describe is built with random weights; nothing is fetched. `architectures.read_architecture` is the door.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from kdx.core.errors import UsageError

from .torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

import open_clip  # noqa: E402
import timm  # noqa: E402

Architecture = dict[str, Any]

TIMM_PREFIX = "timm:"
VOCAB_SIZE = 49408  # CLIP's, the only vocabulary that kdx trains with
TEXT_TOWERS = {  # CLIP-KD's text towers: width and heads; all have 12 layers
    "T": (384, 6),
    "B": (512, 8),
    "L": (768, 12),
}
TIMM_EMBED_DIM = 512  # that of all of CLIP-KD's timm students

# settings of open_clip's text towers that a causal tower pooled at end-of-text, projected by a plain matrix, has
CLIP_TEXT = {
    "vocab_size": VOCAB_SIZE,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "embed_cls": False,
    "proj_type": "linear",
    "proj_bias": False,
    "output_tokens": False,
}
PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


def open_clip_architecture(name: str, shipped: Iterable[str]) -> Architecture:
    """open_clip's configuration of that name, in the layout of kdx/models/architectures.

    shipped: kdx's own names, only for the remedy. open_clip keeps preprocessing with the weights: where all its
    weights of a name agree it is carried as `preprocess_cfg`, else CLIP's own stands. `custom_text` is dropped:
    it only moves the text tower's parameters to another place in the state dict.

    Raises UsageError for an unknown name, with the nearest, and for a model that is not a plain CLIP with CLIP's
    tokenizer.
    """
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        raise UsageError(f"there is no architecture {name!r}", remedy=_nearest(name, shipped))
    if (why := _why_not_plain(config)) is not None:
        raise UsageError(
            f"{name} of open_clip {why}",
            remedy="choose a plain CLIP with CLIP's tokenizer, for example ViT-B-32",
        )
    architecture = {"name": name, **{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}}
    if config.get("quick_gelu", False):
        architecture["quick_gelu"] = True
    if (preprocess := _published_preprocess(name)) is not None:
        architecture["preprocess_cfg"] = preprocess
    return architecture


def timm_architecture(name: str) -> Architecture:
    """`timm:NAME+TEXT`: a timm trunk with its own pooling and a linear projection, beside one of CLIP-KD's text towers.

    TEXT: T (width 384), B (512) or L (768); T without it. embed_dim 512, the image size is the trunk's default,
    the preprocessing CLIP's, like CLIP-KD's timm students. Raises UsageError for what timm or kdx does not know.
    """
    trunk, plus, text = name.removeprefix(TIMM_PREFIX).partition("+")
    text = text if plus else "T"
    if text not in TEXT_TOWERS:
        raise UsageError(
            f"{name}: there is no text tower {text!r}", remedy=f"choose {', '.join(TEXT_TOWERS)}"
        )
    known = timm.list_models()
    if trunk not in known:
        base = trunk.partition(".")[0]
        if base in known:
            raise UsageError(
                f"{name}: {trunk} names published weights, and kdx starts from random ones",
                remedy=f"write {TIMM_PREFIX}{base}+{text}",
            )
        close = difflib.get_close_matches(trunk, known, n=1, cutoff=0.4)
        remedy = f"did you mean {TIMM_PREFIX}{close[0]}+{text}?" if close else "see timm.list_models()"
        raise UsageError(f"{name}: timm has no model {trunk!r}", remedy=remedy)
    width, heads = TEXT_TOWERS[text]
    return {
        "name": f"{TIMM_PREFIX}{trunk}+{text}",
        "embed_dim": TIMM_EMBED_DIM,
        "vision_cfg": {
            "timm_model_name": trunk,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": _image_size(name, trunk),
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": VOCAB_SIZE,
            "width": width,
            "heads": heads,
            "layers": 12,
        },
    }


def _why_not_plain(config: Architecture) -> str | None:
    """Why a configuration of open_clip is no plain CLIP with CLIP's tokenizer; None if it is one."""
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "multimodal_cfg" in config:
        return "is a CoCa, which has a third tower"
    if text.get("hf_model_name"):
        return f"has the text tower {text['hf_model_name']} of transformers"
    if text.get("hf_tokenizer_name"):
        return f"has the tokenizer {text['hf_tokenizer_name']}"
    for key, wanted in CLIP_TEXT.items():
        if text.get(key, wanted) != wanted:
            return f"has a text tower with {key} = {text[key]}"
    return "puts out image tokens" if vision.get("output_tokens") else None


def _published_preprocess(name: str) -> dict[str, Any] | None:
    """What all of open_clip's published weights of an architecture were trained with; None if they disagree."""
    found: list[dict[str, Any]] = []
    for tag in open_clip.list_pretrained_tags_by_model(name):
        config = open_clip.get_pretrained_cfg(name, tag)
        settings = {key: config[key] for key in PREPROCESS}
        settings = {key: list(value) if key in ("mean", "std") else value for key, value in settings.items()}
        if settings not in found:
            found.append(settings)
    return found[0] if len(found) == 1 else None


def _image_size(name: str, trunk: str) -> int:
    config = timm.get_pretrained_cfg(trunk)
    channels, height, width = (0, 0, 0) if config is None else config.input_size
    if channels != 3 or height != width:
        raise UsageError(
            f"{name}: {trunk} takes {channels} × {height} × {width}, not square RGB images",
            remedy="choose another trunk",
        )
    return height


def _nearest(name: str, shipped: Iterable[str]) -> str:
    if name.partition("+")[0] in timm.list_models():
        return f"did you mean {TIMM_PREFIX}{name}?"
    candidates = [*shipped, *(known for known in open_clip.list_models() if _is_plain(known))]
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else "see `kdx models`, open_clip.list_models() or timm:NAME"


def _is_plain(name: str) -> bool:
    config = open_clip.get_model_config(name)
    return config is not None and _why_not_plain(config) is None
