"""AdamW and its schedule as CLIP-KD trains; the settings are recipe.OptimizerConfig."""

from __future__ import annotations

import math
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


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear from lr / warmup_steps over the warm-up, then half-cosine to 0 at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * progress)) / 2
