"""What `kdx import` is given: a weight file, a folder, or the name of published weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kdx.core.dimensions import are_widths
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import MANIFEST, read_json, read_manifest

from ..architectures import Architecture
from . import hub
from .files import INDEX, read_weights
from .hub import OPEN_CLIP_CONFIG
from .hugging_face_config import model_type
from .hugging_face_models import READERS, reader_of
from .layouts import UNWRAPPED, State, strip_wrappers

# the order in which open_clip itself looks
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUGGING_FACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WIDTHS = "matryoshka_dims"  # kdx's own, beside open_clip's settings
SEALED_FOR_OTHERS = "open-clip-model"  # the kind of folder that open_clip_layout.py writes


@dataclass(frozen=True)
class Source:
    """Weights as they were found. architecture: as its publisher states it; None where only the weights tell.

    inputs: digests of the weight files by name. changes: what was done to the keys already, a line each.
    matryoshka_dims: see EncoderSpec.
    """

    where: str
    state: State
    architecture: Architecture | None
    inputs: dict[str, str]
    changes: tuple[str, ...] = ()
    matryoshka_dims: tuple[int, ...] = ()


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
    state, inputs = read_weights(path)
    return Source(str(path), state, architecture, inputs)


def _read_folder(folder: Path) -> Source:
    if (folder / MANIFEST).is_file() and (kind := read_manifest(folder).kind) != SEALED_FOR_OTHERS:
        raise UsageError(f"is a {kind} of kdx already", where=folder, remedy="give it to kdx as it is")
    config = folder / OPEN_CLIP_CONFIG
    weights = _first(folder, OPEN_CLIP_WEIGHTS)
    kind = model_type(folder)
    if config.is_file() and weights and (weights.name.startswith("open_clip") or kind is None):
        architecture = hub.open_clip_config(config, folder.resolve().name)
        return replace(_read_file(weights, architecture), matryoshka_dims=_widths(config, architecture))
    if kind is not None:
        return _read_hugging_face(folder, kind)
    remedy = f"give one that holds weights and {OPEN_CLIP_CONFIG}, or a config.json of the type {' or '.join(READERS)}"
    if alone := sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES):
        remedy = f"give the weight file itself, {alone[0]}, and --architecture NAME if its keys do not tell"
    raise DataError(
        "is neither a folder of open_clip nor of a Hugging Face model that kdx reads",
        where=folder,
        remedy=remedy,
    )


def _widths(config: Path, architecture: Architecture) -> tuple[int, ...]:
    stated = read_json(config).get(WIDTHS, [])
    if not isinstance(stated, list) or not are_widths(stated, architecture.embed_dim):
        raise DataError(
            f"{WIDTHS} = {stated!r} are no widths of embeddings of {architecture.embed_dim} numbers",
            where=config,
            remedy="write the folder again with `kdx models save-open-clip`",
        )
    return tuple(stated)


def _read_hugging_face(folder: Path, kind: str) -> Source:
    reader = reader_of(kind, folder)
    weights = _first(folder, HUGGING_FACE_WEIGHTS)
    if weights is None:
        raise DataError(
            f"holds no weights: neither {' nor '.join(HUGGING_FACE_WEIGHTS)}, nor an index of its shards",
            where=folder,
            remedy="get the folder again",
        )
    architecture = reader.architecture(folder)
    state, inputs = read_weights(weights)
    unwrapped = strip_wrappers(state)
    changes = (UNWRAPPED,) if unwrapped.keys() != state.keys() else ()
    return Source(str(folder), reader.convert(unwrapped), architecture, inputs, changes)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first that is there, whole or as the index of its shards."""
    both = (folder / form for name in names for form in (name, f"{name}{INDEX}"))
    return next((path for path in both if path.is_file()), None)
