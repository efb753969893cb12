"""Distillation: recipes, the objective with its losses, the teacher cache and the training engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "Embeddings": "objective",
    "Objective": "objective",
    "ObjectiveConfig": "objective_config",
    "Recipe": "recipe",
    "RunResult": "engine",
    "open_teachers": "teachers",
    "read_recipe": "recipe",
    "run_recipe": "run",
    "train": "engine",
}


def __getattr__(name: str) -> Any:
    """Imports torch only when a name that needs it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
