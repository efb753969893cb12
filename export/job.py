"""What a format's builder is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.core.progress import Progress, silent
from kdx.models.checkpoint import Checkpoint

from .samples import ParitySamples


@dataclass(frozen=True)
class BuildJob:
    """One export: the model, the folder that receives image_encoder.* and text_encoder.*, and what was asked for.

    calibration: images and texts of the train split, for a precision that needs them, else None.
    """

    checkpoint: Checkpoint
    folder: Path
    precision: str
    target: str
    calibration: ParitySamples | None = None
    progress: Progress = silent
