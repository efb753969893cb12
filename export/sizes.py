"""How large a model is, whatever it is exported to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdx.models.checkpoint import Checkpoint
from kdx.models.flops import count_flops


def model_sizes(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """For the manifest: `bytes` of each encoder file in `folder`, which holds nothing else yet; `parameters`; `flops`
    of one image and of one text as long as the context.
    """
    flops = count_flops(checkpoint.architecture)
    return {
        "bytes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "flops": {"image": flops.image, "text": flops.text},
    }
