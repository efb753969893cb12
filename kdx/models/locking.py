"""Locking towers: a locked tower is a fixed function while the other one learns (LiT, arXiv 2111.07991)."""

from __future__ import annotations

from collections.abc import Collection

from .clip import ClipModel


def lock(model: ClipModel, towers: Collection[str]) -> None:
    """Locks "image" and/or "text": no parameter of the tower takes a gradient, its projection included.

    The tower stays in evaluation mode, whatever `model.train()` says: its batch norms neither use nor update the
    statistics of a batch, and no dropout or stochastic depth is active. The state dict keeps its names, unlike with
    open_clip's lock, which replaces the batch norms. logit_scale always learns.
    """
    for tower in towers:
        for name, parameter in model.named_parameters():
            if name.partition(".")[0] in model.TOWERS[tower]:
                parameter.requires_grad_(False)
    model.locked = model.locked | frozenset(towers)
    model.train(model.training)
