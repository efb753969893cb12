"""ExportedModel: the sealed folder that `kdx export` writes and that runtimes and `kdx serve` read.

Files: `image_encoder.*` and `text_encoder.*` in one format, `clip_vocabulary.json`, `parity.json` (the report of
the gate that let it pass) and `config.json` = {"format": …, "spec": EncoderSpec}.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError
from kdx.core.folders import Manifest, open_sealed, read_json
from kdx.core.tokenizer import vocabulary_file

KIND = "exported-model"
SUFFIX = {"onnx": ".onnx"}  # file suffix of the encoders by format


@dataclass(frozen=True)
class ExportedModel:
    """A whole, verified exported model. The encoders' tensors are named in docs/formats.md."""

    path: Path
    manifest: Manifest
    format: str
    spec: EncoderSpec

    @property
    def image_encoder(self) -> Path:
        return self.path / f"image_encoder{SUFFIX[self.format]}"

    @property
    def text_encoder(self) -> Path:
        return self.path / f"text_encoder{SUFFIX[self.format]}"

    @property
    def tokenizer(self) -> Path:
        return vocabulary_file(self.path)

    def parity(self) -> dict[str, Any]:
        return read_json(self.path / "parity.json")


def open_exported_model(path: Path) -> ExportedModel:
    """Checks every digest and returns the model. Raises DataError when the folder is not whole."""
    manifest = open_sealed(path, KIND)
    config = read_json(path / "config.json")
    try:
        format_, spec = str(config["format"]), EncoderSpec.from_dict(config["spec"])
    except KeyError as error:
        raise DataError(
            f"lacks the key {error}", where=path / "config.json", remedy="export it again"
        ) from None
    if format_ not in SUFFIX:
        raise DataError(
            f"has the format {format_!r}, this kdx knows {', '.join(SUFFIX)}", where=path, remedy="update kdx"
        )
    return ExportedModel(path, manifest, format_, spec)
