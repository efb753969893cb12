"""ExportedModel: the sealed folder that `kdx export` writes and that runtimes and `kdx serve` read.

Files: `image_encoder.*` and `text_encoder.*` in one format, `clip_vocabulary.json`, `parity.json` (the report of
the gate that let it pass) and `config.json` = {"format", "precision", "target", "spec": EncoderSpec, "options"}.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.digests import value_digest
from kdx.core.encoder import Encoder, EncoderSpec
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import MANIFEST, Manifest, open_sealed, read_json, read_manifest

from .formats import Format, find_format

KIND = "exported-model"


@dataclass(frozen=True)
class ExportedModel:
    """A whole, verified exported model. The encoders' tensors are named in docs/formats.md.

    target: what its files are made to run on. options: what its format's opener must know beside the files.
    """

    path: Path
    manifest: Manifest
    format: Format
    precision: str
    target: str
    spec: EncoderSpec
    options: dict[str, Any]

    @property
    def image_encoder(self) -> Path:
        return self.path / f"image_encoder{self.format.suffix}"

    @property
    def text_encoder(self) -> Path:
        return self.path / f"text_encoder{self.format.suffix}"

    @property
    def identity(self) -> str | None:
        """sha256 (hex) of all its files; None before it is sealed."""
        return value_digest(self.manifest.digest) if self.manifest.digest else None

    def encoder_bytes(self) -> int:
        """Of both encoders, with their data files."""
        files = (
            *self.path.glob(f"{self.image_encoder.name}*"),
            *self.path.glob(f"{self.text_encoder.name}*"),
        )
        return sum(file.stat().st_size for file in files)

    def parity(self) -> dict[str, Any]:
        return read_json(self.path / "parity.json")

    def open(self, *, num_threads: int | None = None) -> Encoder:
        """The Encoder that runs it, as its format says. Raises DataError, SetupError."""
        return self.format.open(self, num_threads=num_threads)


def open_exported_model(path: Path) -> ExportedModel:
    """Checks every digest and returns the model.

    Raises UsageError for a run or checkpoint, DataError when the folder is not whole.
    """
    kind = read_manifest(path).kind if (path / MANIFEST).exists() else None
    if kind in ("run", "checkpoint"):
        raise UsageError(
            f"is a {kind}, and what was exported from it is needed",
            where=path,
            remedy=f"kdx export {path} --data DIR --out EXPORTED, and give EXPORTED",
        )
    model = read_exported_model(path, open_sealed(path, KIND))
    for file in (model.image_encoder, model.text_encoder):
        if file.name not in model.manifest.digest:
            raise DataError(
                f"is of the format {model.format.name}, but lacks {file.name}",
                where=path,
                remedy="export it again",
            )
    return model


def read_exported_model(path: Path, manifest: Manifest) -> ExportedModel:
    """What config.json says, with no look at the other files. A folder from before there were precisions holds fp32."""
    config = read_json(path / "config.json")
    try:
        name, spec = str(config["format"]), EncoderSpec.from_dict(config["spec"])
    except KeyError as error:
        raise DataError(
            f"lacks the key {error}", where=path / "config.json", remedy="export it again"
        ) from None
    try:
        format_ = find_format(name)
    except UsageError as error:
        raise DataError(
            f"has the format {name!r}, which this kdx lacks: {error.remedy}",
            where=path,
            remedy="update kdx, or install the package that has the format",
        ) from None
    precision = str(config.get("precision", "fp32"))
    target = str(config.get("target", format_.targets[0]))
    if precision not in format_.precisions or target not in format_.targets:
        raise DataError(
            f"is {name} in {precision} for {target}, which this kdx lacks",
            where=path / "config.json",
            remedy="update kdx, or export the model again",
        )
    return ExportedModel(path, manifest, format_, precision, target, spec, dict(config.get("options", {})))
