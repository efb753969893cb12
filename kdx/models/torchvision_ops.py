"""Makes torchvision importable beside a CPU-only torch.

open_clip and timm import torchvision. Its general wheel cannot load its compiled library beside a
CPU-only torch, and then fails on import with `operator torchvision::nms does not exist`. Declaring the
two operators that it registers fakes for is enough for everything that kdx uses.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def declare_on_import() -> None:
    """From now on the first import of torchvision, whoever does it, finds its operators. Imports nothing itself."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _DeclareFirst())


@functools.cache
def declare_missing_operators() -> Any:
    """The torch.library.Library that declares them, to be kept alive (this cache does); None where none is missing."""
    import torch

    if hasattr(torch.ops.torchvision, "nms") or _compiled_library_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


class _DeclareFirst(MetaPathFinder):
    """Finds nothing: it only hears that torchvision is about to be imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            if importlib.util.find_spec("torch"):
                declare_missing_operators()
        return None


def _compiled_library_loads() -> bool:
    import torch

    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return False
    for path in Path(package.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue
        return True
    return False
