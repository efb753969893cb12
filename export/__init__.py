"""From a Checkpoint to an ExportedModel, through the parity gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdx.core.lazy import lazy_names

if TYPE_CHECKING:
    from .exported import export_checkpoint
    from .gate_inputs import GateInputs, prepare
    from .onnx import check_exports
    from .parity import check_parity
    from .samples import ParitySamples, read_parity_samples

__all__ = [
    "GateInputs",
    "ParitySamples",
    "check_exports",
    "check_parity",
    "export_checkpoint",
    "prepare",
    "read_parity_samples",
]

__getattr__ = lazy_names(
    __name__,
    {
        "GateInputs": "gate_inputs",
        "ParitySamples": "samples",
        "check_exports": "onnx",
        "check_parity": "parity",
        "export_checkpoint": "exported",
        "prepare": "gate_inputs",
        "read_parity_samples": "samples",
    },
)
