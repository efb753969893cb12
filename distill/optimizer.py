"""AdamW as CLIP-KD trains; the settings are recipe.OptimizerConfig."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .recipe import OptimizerConfig


def build_optimizer(modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.AdamW:
    """Weights with ndim ≥ 2 decay; biases, norms, scales and class tokens do not."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
