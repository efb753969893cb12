"""What `kdx import` is given: a weight file, a folder, or the name of published weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.core.digests import file_digest
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import MANIFEST, read_manifest

from ..architectures import Architecture
from . import hub, hugging_face
from .files import read_sharded, read_state_dict
from .layouts import State

# the order in which open_clip itself looks
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
HUGGING_FACE_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP_CONFIG = "open_clip_config.json"
SEALED_FOR_OTHERS = "open-clip-model"  # the kind of folder that open_clip_layout.py writes


@dataclass(frozen=True)
class Source:
    """Weights as they were found. architecture: as its publisher states it; None where only the weights tell.

    inputs: digests of the weight files by name.
    """

    where: str
    state: State
    architecture: Architecture | None
    inputs: dict[str, str]


def read_source(source: str) -> Source:
    """Reads a file, a folder or a hub name. Raises UsageError, DataError or SetupError."""
    if "://" in source:
        raise UsageError(
            "is a URL, which kdx does not fetch", where=source, remedy="download the file and give its path"
        )
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists() and hub.is_hub_name(source):
        published = hub.fetch(source)
        return _read_file(published.weights, published.architecture)
    if not path.exists():
        raise DataError(
            "there is no such file or folder",
            where=source,
            remedy="check the path, or give NAME:TAG or hf-hub:OWNER/MODEL for published weights",
        )
    return _read_file(path)


def _read_file(path: Path, architecture: Architecture | None = None) -> Source:
    return Source(str(path), read_state_dict(path), architecture, {path.name: file_digest(path)})


def _read_folder(folder: Path) -> Source:
    if (folder / MANIFEST).is_file() and (kind := read_manifest(folder).kind) != SEALED_FOR_OTHERS:
        raise UsageError(f"is a {kind} of kdx already", where=folder, remedy="give it to kdx as it is")
    config = folder / OPEN_CLIP_CONFIG
    weights = _first(folder, OPEN_CLIP_WEIGHTS)
    is_clip = hugging_face.is_clip_folder(folder)
    if config.is_file() and weights and (weights.name.startswith("open_clip") or not is_clip):
        return _read_file(weights, hub.open_clip_config(config, folder.resolve().name))
    weights = _first(folder, HUGGING_FACE_WEIGHTS)
    if is_clip and weights:
        return _read_hugging_face(folder, weights)
    raise DataError(
        "is neither a folder of open_clip nor of a Hugging Face CLIPModel",
        where=folder,
        remedy=f"give one that holds {OPEN_CLIP_CONFIG}, or config.json with model_type clip, and the weights",
    )


def _read_hugging_face(folder: Path, weights: Path) -> Source:
    architecture = hugging_face.read_architecture(folder)
    hugging_face.check_vocabulary(folder)
    if weights.suffix == ".json":
        state, inputs = read_sharded(weights)
    else:
        state, inputs = read_state_dict(weights), {weights.name: file_digest(weights)}
    return Source(str(folder), hugging_face.to_open_clip(state), architecture, inputs)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
