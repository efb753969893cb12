"""The forms of a model, one file each, and `load`, which picks by what lies at a path or URL."""

from __future__ import annotations

from pathlib import Path

from kdx.core.encoder import Embedder
from kdx.core.errors import DataError, UsageError
from kdx.core.extras import naming_the_extra
from kdx.core.folders import MANIFEST, read_manifest

from .exported_model import KIND as EXPORTED, open_exported_model

__all__ = ["load"]

FOREIGN = (
    "config.json",
    "open_clip_config.json",
    "*.safetensors",
    "*.bin",
    "*.pt",
)  # what other houses' models hold


def load(path_or_url: str | Path) -> Embedder:
    """Opens a checkpoint (or a run's student), an exported model, or a Triton server at `grpc://host:port`.

    Raises DataError if nothing whole lies there, UsageError for a scheme that kdx does not speak, SetupError
    if the machine cannot run that form or no server answers.
    """
    if "://" in str(path_or_url):
        return _load_url(str(path_or_url))
    path = Path(path_or_url)
    if not path.is_dir():
        if path.exists():
            raise DataError("is a file and no model of kdx", where=path, remedy=_import(path))
        raise DataError(
            "there is no such folder", where=path, remedy="give a checkpoint, exported model or URL"
        )
    if not (path / MANIFEST).exists() and any(next(path.glob(pattern), None) for pattern in FOREIGN):
        raise DataError("holds a model that is not kdx's", where=path, remedy=_import(path))
    kind = read_manifest(path).kind
    if kind == EXPORTED:
        return open_exported_model(path).open()
    if kind in ("checkpoint", "run"):
        with naming_the_extra():
            from .torch import TorchEncoder

            return TorchEncoder.open(path)
    if kind == "deferred-export":
        from .deferred import not_built_yet

        raise not_built_yet(path)
    raise DataError(
        f"is a {kind}, which is not a model", where=path, remedy="give a checkpoint or exported model"
    )


def _import(path: Path) -> str:
    return f"read it into a checkpoint with `kdx import {path} --out DIR`, and give DIR"


def _load_url(url: str) -> Embedder:
    if not url.startswith("grpc://"):
        raise UsageError(
            "is not a URL that kdx speaks", where=url, remedy="use grpc://HOST:PORT of a Triton server"
        )
    from .triton import TritonEmbedder

    return TritonEmbedder(url)
