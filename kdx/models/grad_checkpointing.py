"""Gradient checkpointing: activations are computed again in the backward pass instead of kept, for memory."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdx.core.errors import UsageError

from .clip import ClipModel


def checkpoint_gradients(model: ClipModel) -> None:
    """Switches gradient checkpointing on in both towers; losses, gradients and batch statistics stay the same.

    Raises UsageError if the image tower cannot: open_clip's ResNets and some timm trunks.
    """
    tower: Any = model.visual
    if not isinstance(tower, VisionTransformer):
        tower = getattr(tower, "trunk", None)  # asked itself: open_clip's adapter only warns
    try:
        tower.set_grad_checkpointing(True)
    except (AssertionError, AttributeError):  # so timm says that a trunk cannot
        name = type(model.visual if tower is None else tower).__name__
        raise UsageError(
            f"the image tower {name} has no gradient checkpointing",
            remedy="set model.grad_checkpointing = false, or choose another student",
        ) from None
    model.checkpoint_text_gradients()
    for module in model.visual.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_CountOnce(module))


class _CountOnce:
    """Keeps a batch norm from counting a batch again when its forward pass is repeated for the backward pass.

    Without this the running statistics would take each batch twice. The repetition can stop early, before any hook
    after the forward pass, so everything is set right before it.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.momentum = norm.momentum

    def __call__(self, norm: nn.Module, _inputs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        repeated = torch._C._current_graph_task_id() != -1  # a backward pass is running in this thread
        norm.momentum = 0.0 if repeated else self.momentum
        counted = norm.training and norm.track_running_stats  # in the forward pass that is repeated
        if repeated and counted and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.sub_(1)
