"""Distillation: recipes, the objective with its losses, the teacher cache and the training engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdx.core.lazy import lazy_names

if TYPE_CHECKING:
    from .engine import RunResult, train
    from .objective import Embeddings, Objective
    from .objective_config import ObjectiveConfig
    from .recipe import Recipe, read_recipe
    from .run import run_recipe
    from .teachers import open_teachers

__all__ = [
    "Embeddings",
    "Objective",
    "ObjectiveConfig",
    "Recipe",
    "RunResult",
    "open_teachers",
    "read_recipe",
    "run_recipe",
    "train",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Embeddings": "objective",
        "Objective": "objective",
        "ObjectiveConfig": "objective_config",
        "Recipe": "recipe",
        "RunResult": "engine",
        "open_teachers": "teachers",
        "read_recipe": "recipe",
        "run_recipe": "run",
        "train": "engine",
    },
)
