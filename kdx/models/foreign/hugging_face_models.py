"""Which of Hugging Face's models kdx reads, by the type in their config.json, and why it does not read others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.folders import read_json

from ..architectures import Architecture
from . import hugging_face_clip, hugging_face_siglip
from .hugging_face_config import CONFIG
from .layouts import State


@dataclass(frozen=True)
class Reader:
    """name: of the class. architecture: of a folder, whose files it checks. convert: its keys as open_clip's."""

    name: str
    architecture: Callable[[Path], Architecture]
    convert: Callable[[State], State]


READERS = {
    "clip": Reader("CLIPModel", hugging_face_clip.read_architecture, hugging_face_clip.to_open_clip),
    "metaclip_2": Reader("MetaClip2Model", hugging_face_clip.read_metaclip2, hugging_face_clip.to_open_clip),
    "siglip": Reader("SiglipModel", hugging_face_siglip.read_architecture, hugging_face_siglip.to_open_clip),
}
ONE_TOWER = "it is one tower of a pair, and kdx reads both"
REASONS = {
    "siglip2": "a NaFlex SigLIP 2 keeps the shape of each image and cuts it into a varying number of patches, and kdx's"
    " images are squares of one size",
    "chinese_clip": "its text tower is a Chinese BERT, read at its class token, that open_clip does not have",
    "altclip": "its text tower is an XLM-R with a layer of its own that open_clip does not have",
    "clipseg": "it segments images, and gives no embedding of them",
    "clap": "it embeds sounds and no images",
    **dict.fromkeys(("clip_vision_model", "clip_text_model"), ONE_TOWER),
    **dict.fromkeys(("metaclip_2_vision_model", "metaclip_2_text_model"), ONE_TOWER),
    **dict.fromkeys(("siglip_vision_model", "siglip_text_model", "siglip2_vision_model"), ONE_TOWER),
}
OTHERWISE = (
    "take a CLIPModel, MetaClip2Model or SiglipModel; if its weights are in open_clip's layout, give their file and"
    " --architecture NAME"
)
REMEDIES = {
    "siglip2": "take weights of a fixed resolution, whose model_type is siglip, such as siglip2-base-patch16-224",
}


def reader_of(model_type: str, folder: Path) -> Reader:
    """Raises DataError that says why a folder with such a model is not read."""
    if reader := READERS.get(model_type):
        _check_class(reader, folder / CONFIG)
        return reader
    reason = REASONS.get(model_type, f"kdx reads {', '.join(READERS)}, pairs of an image and a text tower")
    raise DataError(
        f"holds a Hugging Face model of the type {model_type}: {reason}",
        where=folder / CONFIG,
        remedy=REMEDIES.get(model_type, OTHERWISE),
    )


def _check_class(reader: Reader, path: Path) -> None:
    """Raises DataError for another class of the same type: a classifier, or one whose code lies beside the weights."""
    stated = read_json(path).get("architectures")
    if isinstance(stated, list) and stated and reader.name not in stated:
        raise DataError(
            f"is of the class {stated[0]}, and kdx reads {reader.name}: what another computes its weights do not show",
            where=path,
            remedy=OTHERWISE,
        )
