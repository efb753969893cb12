"""Branches that train side by side and are one convolution afterwards (MobileOne, FastViT, RepVGG) as that convolution.

The sums are the same in exact arithmetic, with fewer nodes to run. The gate compares what is exported with the model as
it was trained, so with the branches.
"""

from __future__ import annotations

import copy

from timm.utils.model import reparameterize_model
from torch import nn

from kdx.models.clip import ClipModel

MERGES = ("reparameterize", "switch_to_deploy", "fuse")  # timm's methods of a block that has such a form


def merge_branches(model: ClipModel) -> ClipModel:
    """A copy of a model in evaluation mode with its image tower's branches merged; the model itself if it has none."""
    if not any(hasattr(module, method) for module in model.visual.modules() for method in MERGES):
        return model
    merged = copy.deepcopy(model).requires_grad_(False)
    visual: nn.Module = reparameterize_model(merged.visual, inplace=True)
    merged.visual = visual
    return merged
