"""From a Checkpoint to an ExportedModel, through the parity gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdx.core.lazy import lazy_names

if TYPE_CHECKING:
    from .exported import check_format, export_checkpoint
    from .onnx import check_exports
    from .parity import Limits, check_parity
    from .samples import ParitySamples, read_parity_samples

__all__ = [
    "Limits",
    "ParitySamples",
    "check_exports",
    "check_format",
    "check_parity",
    "export_checkpoint",
    "read_parity_samples",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Limits": "parity",
        "ParitySamples": "samples",
        "check_exports": "onnx",
        "check_format": "exported",
        "check_parity": "parity",
        "export_checkpoint": "exported",
        "read_parity_samples": "samples",
    },
)
