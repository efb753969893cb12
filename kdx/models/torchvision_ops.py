"""Makes torchvision importable beside a CPU-only torch.

open_clip and timm import torchvision. Its general wheel cannot load its compiled library beside a
CPU-only torch, and then fails on import with `operator torchvision::nms does not exist`. Declaring the
two operators that it registers fakes for is enough for everything that kdx uses.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch


@functools.cache
def ensure_torchvision_imports() -> torch.library.Library | None:
    """Call before the first import of open_clip, timm or torchvision. Does nothing where they import by themselves.

    The returned library must stay alive; the cache of this function sees to that.
    """
    if hasattr(torch.ops.torchvision, "nms") or _compiled_library_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _compiled_library_loads() -> bool:
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
