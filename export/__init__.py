"""From a Checkpoint to an ExportedModel, through the parity gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "Limits": "parity",
    "ParitySamples": "samples",
    "check_exports": "onnx",
    "check_format": "exported",
    "check_parity": "parity",
    "export_checkpoint": "exported",
    "read_parity_samples": "samples",
}


def __getattr__(name: str) -> Any:
    """Imports torch only when a name that needs it is asked for: the gate's child process does not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
