"""kdx: distil CLIP models, export them behind a parity gate, serve them with Triton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdx.core.encoder import Embedder

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path_or_url: str | Path) -> Embedder:
    """Open any form of a model: a checkpoint, an exported model, or a Triton URL (`grpc://host:port`).

    Raises DataError if nothing whole lies there, SetupError if the machine cannot run that form.
    """
    from kdx.runtime import load as open_model

    return open_model(path_or_url)
