"""Architectures from open_clip's model configurations: those that it knows by name, and those beside published weights.

A configuration is a table with embed_dim, vision_cfg and text_cfg. Nothing is fetched here.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import open_clip

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import read_json

from .architecture import Architecture, PreprocessConfig
from .clip_configuration import parse_architecture, unsupported_reason
from .hugging_face_text import known_configs

# what of a configuration describes the model; the captioning decoder of a CoCa (multimodal_cfg) is left out
MODEL_FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "custom_text", "quick_gelu", "init_logit_bias")


def is_open_clip_name(name: str) -> bool:
    """Whether open_clip has a model of this name; not all can be built."""
    return name in open_clip.list_models()


@functools.cache
def open_clip_names() -> list[str]:
    """open_clip's names of the models that can be built."""
    return [name for name in open_clip.list_models() if _unsupported_reason(name) is None]


def open_clip_architecture(name: str) -> Architecture:
    """The architecture that open_clip knows by this name.

    open_clip keeps preprocessing with the weights: where all its weights of a name agree it is taken, else CLIP's own
    stands. Raises UsageError for a model that cannot be built.
    """
    if reason := _unsupported_reason(name):
        raise UsageError(
            f"kdx cannot build open_clip's {name}: {reason}",
            remedy="choose another, for example ViT-B-32",
        )
    return with_preprocess(_configured(name), _published_preprocess(name))


def from_open_clip(name: str, configuration: Any, where: str | Path) -> Architecture:
    """A configuration of open_clip as an architecture of kdx. Raises DataError if it is none."""
    if isinstance(configuration, dict):
        if configuration.get("vision_cfg") and configuration.get("text_cfg") is None:
            raise DataError(
                "describes an image tower alone (it has no text_cfg), and kdx reads pairs of an image and a text tower",
                where=where,
                remedy="take a whole CLIP",
            )
        described = {field: configuration[field] for field in MODEL_FIELDS if field in configuration}
        configuration = {"name": name, **_with_hugging_face_config(described, where)}
    architecture = parse_architecture(configuration, where)
    vision = architecture.vision_cfg
    return architecture.changed(
        vision_cfg=vision.changed(image_size=vision.image_size)
    )  # written, though a default


def _with_hugging_face_config(described: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """With the config.json of a Hugging Face text tower, which then is not needed again.

    It lies in a folder by the tower's name beside the file `where`, as open_clip_layout.py writes it, or
    `text_cfg.hf_model_name` itself is a folder. One that lies here by a name that kdx knows does not count.
    """
    text = described.get("text_cfg")
    if not isinstance(text, dict) or not text.get("hf_model_name"):
        return described
    name = str(text["hf_model_name"])
    folder, known = Path(name), known_configs().get(name)
    beside = where.parent / folder / "config.json" if isinstance(where, Path) else None
    if beside and not folder.is_absolute() and beside.is_file():
        config = read_json(beside)
        found = {} if config == known else {"hf_config": config}
    elif not known and (folder / "config.json").is_file():
        found = {"hf_model_name": folder.name, "hf_config": read_json(folder / "config.json")}
    else:
        return described
    return {**described, "text_cfg": {**text, **found}}


def with_preprocess(architecture: Architecture, settings: dict[str, Any]) -> Architecture:
    """The architecture with the preprocessing that a publisher states; colour mode and padding are not settings."""
    known = PreprocessConfig.model_fields
    given = {field: value for field, value in settings.items() if field in known and value is not None}
    return architecture.changed(preprocess_cfg=PreprocessConfig(**given)) if given else architecture


def _configured(name: str) -> Architecture:
    return from_open_clip(name, open_clip.get_model_config(name), f"open_clip's {name}")


def _unsupported_reason(name: str) -> str | None:
    try:
        return unsupported_reason(_configured(name))
    except DataError as error:
        return error.what


def _published_preprocess(name: str) -> dict[str, Any]:
    """What all of open_clip's published weights of a name were trained with; nothing if they disagree."""
    found: list[dict[str, Any]] = []
    for tag in open_clip.list_pretrained_tags_by_model(name):
        published = open_clip.get_pretrained_cfg(name, tag)
        settings = {field: published[field] for field in PreprocessConfig.model_fields}
        if settings not in found:
            found.append(settings)
    return found[0] if len(found) == 1 else {}
