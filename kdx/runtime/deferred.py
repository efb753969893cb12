"""DeferredExport: the sealed folder from which another machine builds, gates and seals an exported model.

Files: `image_encoder.onnx` and `text_encoder.onnx`, typed, with their data files if there are any;
`clip_vocabulary.json`; `gate_inputs.npz`, what the gate asks and what PyTorch answered; `config.json` = {"format",
"precision", "target", "spec", "plan", "graphs"}. Nothing in it runs, and building from it needs no torch.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import Manifest, open_sealed, read_json

from .formats import Format, find_format
from .tensorrt import RTX, TRT

KIND = "deferred-export"
DEFERRABLE = (TRT, RTX)
GATE_INPUTS = "gate_inputs.npz"


@dataclass(frozen=True)
class DeferredExport:
    """A whole, verified deferred export.

    plan: how its engines are built, as kdx.export.tensorrt_plan reads it. graphs: what was recorded of making them.
    """

    path: Path
    manifest: Manifest
    format: Format
    precision: str
    target: str
    spec: EncoderSpec
    plan: dict[str, Any]
    graphs: dict[str, Any]

    @property
    def gate_inputs(self) -> Path:
        return self.path / GATE_INPUTS


def open_deferred(path: Path) -> DeferredExport:
    """Checks every digest and returns the deferred export. Raises DataError when the folder is not whole."""
    manifest = open_sealed(path, KIND)
    config = read_json(path / "config.json")
    try:
        format_ = find_format(str(config["format"]))
        spec = EncoderSpec.from_dict(config["spec"])
        precision, target = str(config["precision"]), str(config["target"])
        plan, graphs = dict(config["plan"]), dict(config["graphs"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise DataError(
            f"does not say what is to be built: {error}",
            where=path / "config.json",
            remedy="make the deferred export again",
        ) from None
    if format_.name not in DEFERRABLE or precision not in format_.precisions:
        raise DataError(
            f"asks for {format_.name} in {precision}, which this kdx does not build later",
            where=path / "config.json",
            remedy="update kdx",
        )
    return DeferredExport(path, manifest, format_, precision, target, spec, plan, graphs)


def check_deferrable(name: str) -> None:
    """Raises UsageError for a format whose files are not built on the machine that runs them."""
    if name not in DEFERRABLE:
        raise UsageError(
            f"{name} is not built on the machine that runs it, so there is nothing to defer",
            remedy=f"leave out --defer, or give --format {' or '.join(DEFERRABLE)}",
        )


def not_built_yet(path: Path) -> UsageError:
    """What to answer to whoever opens a deferred export as a model."""
    return UsageError(
        "is a deferred export: its engines are not built yet",
        where=path,
        remedy=f"on the machine with the GPU: kdx export --finish {path} --out DIR, and give DIR",
    )


def finish(deferred: Path, cache: Path) -> Path:
    """The exported model of a deferred export for this machine's GPU: built, gated and sealed, or found in `cache`.

    It lies under `cache`, by digest of the graphs, the plan with its flags and profiles, TensorRT's version and the
    GPU, so that a server builds at its first start alone. Takes minutes then. Needs no torch, but kdx's export room.

    Raises DataError for a damaged folder, SetupError for what the machine lacks, GateError when the engines are not the
    trained model; nothing is kept then.
    """
    try:
        build = pkgutil.resolve_name("kdx.export.finishing:finish")
    except ImportError as error:
        raise SetupError(
            f"this copy of kdx cannot build engines: {error}",
            where=deferred,
            remedy=f"build on this machine with kdx: kdx export --finish {deferred} --out DIR",
        ) from None
    return build(deferred, cache)
