"""Architectures from open_clip's model configurations: those that it knows by name, and those beside published weights.

A configuration is a dictionary with embed_dim, vision_cfg and text_cfg; an architecture of kdx is the same with a name
and, where it is known, `preprocess_cfg`. Nothing is fetched here.
"""

from __future__ import annotations

from typing import Any

from kdx.core.errors import UsageError

from .clip_configuration import IMAGE_SIZE, why_not
from .shipped import Architecture
from .torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

import open_clip  # noqa: E402

# what of a configuration describes the model. `custom_text` does not: it only moves the text tower's parameters to
# another place in the state dict
MODEL_FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")
PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")


def is_open_clip_name(name: str) -> bool:
    """Whether open_clip has a model of this name; a ClipModel may not be able to hold it."""
    return name in open_clip.list_models()


def open_clip_names() -> list[str]:
    """open_clip's names of the models that a ClipModel can hold."""
    return [name for name in open_clip.list_models() if why_not(_configuration(name)) is None]


def open_clip_architecture(name: str) -> Architecture:
    """The architecture that open_clip knows by this name.

    open_clip keeps preprocessing with the weights: where all its weights of a name agree it is taken, else CLIP's own
    stands. Raises UsageError for a model that a ClipModel cannot hold.
    """
    configuration = _configuration(name)
    if reason := why_not(configuration):
        raise UsageError(
            f"kdx cannot build open_clip's {name}: {reason}",
            remedy="choose a plain CLIP with CLIP's tokenizer, for example ViT-B-32",
        )
    return with_preprocess(from_open_clip(name, configuration), _published_preprocess(name))


def from_open_clip(name: str, configuration: dict[str, Any]) -> Architecture:
    """A configuration of open_clip as an architecture of kdx."""
    described = {field: configuration[field] for field in MODEL_FIELDS if field in configuration}
    size = described["vision_cfg"].get("image_size", IMAGE_SIZE)
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    return {"name": name, **described, "vision_cfg": {**described["vision_cfg"], "image_size": size}}


def with_preprocess(architecture: Architecture, settings: dict[str, Any]) -> Architecture:
    """The architecture with the preprocessing that a publisher states; colour mode and padding are not settings."""
    given = {field: settings[field] for field in PREPROCESS_FIELDS if field in settings}
    return {**architecture, "preprocess_cfg": given} if given else architecture


def _configuration(name: str) -> dict[str, Any]:
    configuration = open_clip.get_model_config(name)
    assert configuration is not None, f"{name}: ask is_open_clip_name first"
    return configuration


def _published_preprocess(name: str) -> dict[str, Any]:
    """What all of open_clip's published weights of a name were trained with; nothing if they disagree."""
    found: list[dict[str, Any]] = []
    for tag in open_clip.list_pretrained_tags_by_model(name):
        published = open_clip.get_pretrained_cfg(name, tag)
        settings = {field: published[field] for field in PREPROCESS_FIELDS}
        settings |= {field: list(settings[field]) for field in ("mean", "std")}
        if settings not in found:
            found.append(settings)
    return found[0] if len(found) == 1 else {}
