"""The inverse of the import: a Checkpoint as open_clip loads it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from kdx.core.digests import file_digest
from kdx.core.folders import sealed_folder
from kdx.core.tokenizers import HuggingFaceTokenizer

from ..checkpoint import Checkpoint, save_weights
from ..hugging_face_text import hugging_face_config
from ..open_clip_architectures import MODEL_FIELDS
from .hub import OPEN_CLIP_CONFIG
from .hugging_face_config import CONFIG
from .hugging_face_tokenizer import write_hugging_face_tokenizer
from .layouts import projection_to_classifier
from .sources import SEALED_FOR_OTHERS, WIDTHS

log = logging.getLogger(__name__)

WEIGHTS = "open_clip_model.safetensors"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def save_open_clip(checkpoint: Checkpoint, out: Path, *, overwrite: bool = False) -> Path:
    """Seals a folder that open_clip loads without kdx, and returns the path of its weights.

    `open_clip_model.safetensors` is the `pretrained` of `open_clip.create_model(NAME, pretrained=FILE)`, for which
    `open_clip.add_model_config(FOLDER)` makes NAME known from `NAME.json`; `open_clip_config.json` adds the
    preprocessing and makes the folder itself loadable as `local-dir:FOLDER`, with its tokenizer. A MobileNetV3's
    projection becomes its trunk's classifier. A Matryoshka student's widths are written for `kdx import`; open_clip
    passes over them. What open_clip has no setting for is left out, and a warning says so.
    The configuration of a Hugging Face text tower lies in a folder by the tower's name, where open_clip finds it if it
    runs in `out`; elsewhere it asks the hub by that name, and a warning says that too. Raises UsageError when `out`
    exists.
    """
    state, tokenizer = checkpoint.model.state_dict(), checkpoint.tokenizer
    described = checkpoint.architecture.to_dict()
    config: dict[str, Any] = {field: described[field] for field in MODEL_FIELDS if field in described}
    for tower in ("vision_cfg", "text_cfg"):
        config[tower].pop("output_tokens", None)  # for a CoCa's decoder, which kdx does not have
    described_tower = hugging_face_config(checkpoint.architecture.text_cfg)
    config["text_cfg"].pop("hf_config", None)
    if described_tower:
        config["text_cfg"]["hf_model_name"] = _name_of_tower(checkpoint, out)
    if act := config["vision_cfg"].pop("timm_act", None):
        log.warning(
            "open_clip has no setting for the image tower's %s; its embeddings will differ a little", act
        )
    if isinstance(tokenizer, HuggingFaceTokenizer):  # open_clip then reads the one in the folder
        config["text_cfg"]["hf_tokenizer_name"] = checkpoint.architecture.text_cfg.tokenizer_name
    if _open_clip_missizes_projection(checkpoint):
        state = projection_to_classifier(state)
        config["vision_cfg"] = {**config["vision_cfg"], "timm_proj": "", "timm_pool": "avg"}
    stated = checkpoint.architecture.preprocess_cfg.model_dump(mode="json")
    inputs = {"checkpoint": file_digest(checkpoint.path / "model.safetensors")}
    with sealed_folder(out, SEALED_FOR_OTHERS, overwrite=overwrite, inputs=inputs, shipped=True) as folder:
        save_weights(state, folder / WEIGHTS, {"format": "pt"})
        widths = {WIDTHS: list(checkpoint.spec.matryoshka_dims)} if checkpoint.spec.matryoshka_dims else {}
        _write_json(folder / OPEN_CLIP_CONFIG, {"model_cfg": config, "preprocess_cfg": stated, **widths})
        _write_json(folder / f"{checkpoint.spec.name}.json", config)
        if described_tower:
            beside = folder / config["text_cfg"]["hf_model_name"] / CONFIG
            beside.parent.mkdir(parents=True)
            _write_json(beside, described_tower)
        if isinstance(tokenizer, HuggingFaceTokenizer):
            write_hugging_face_tokenizer(tokenizer, folder)
    return out / WEIGHTS


def _name_of_tower(checkpoint: Checkpoint, out: Path) -> str:
    """The Hugging Face model that the text tower is; a path of open_clip's own would end with the folder's place."""
    stated = checkpoint.architecture.text_cfg.hf_model_name or ""
    name = stated if HUB_NAME.fullmatch(stated) else "text-tower"
    log.warning(
        "open_clip asks for the text tower's config.json by the name %s: in the folder it runs in, else on the hub;"
        " without a network run it in %s, with local-dir:.",
        name,
        out,
    )
    return name


def _open_clip_missizes_projection(checkpoint: Checkpoint) -> bool:
    """Where kdx had to size the projection itself, open_clip would build another."""
    trunk = getattr(checkpoint.model.visual, "trunk", None)
    projection = getattr(getattr(checkpoint.model.visual, "head", None), "proj", None)
    return projection is not None and projection.in_features != trunk.num_features  # pyright: ignore


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
