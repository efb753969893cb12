"""The student as a recipe starts it: random or inherited weights, locked towers, gradient checkpointing."""

from __future__ import annotations

from pathlib import Path

import torch

from kdx.core.errors import UsageError
from kdx.models.architectures import Architecture, build_model
from kdx.models.checkpoint import open_checkpoint, read_checkpoint_architecture
from kdx.models.clip import ClipModel
from kdx.models.grad_checkpointing import checkpoint_gradients
from kdx.models.inheritance import inherit
from kdx.models.locking import lock

from .model_config import InheritConfig
from .recipe import Recipe


def build_student(
    recipe: Recipe, architecture: Architecture, teacher: Path | None
) -> tuple[ClipModel, dict[str, str]]:
    """The student on the CPU, and the digests of what it was made from, by name.

    architecture: that of recipe.student. teacher: the checkpoint or run of --teacher. Raises UsageError when the
    recipe's choices do not fit together, DataError for a damaged checkpoint.
    """
    model = build_model(architecture, recipe.seed)
    inputs: dict[str, str] = {}
    if recipe.inherit is not None:
        source = open_checkpoint(_source(recipe.inherit, teacher))
        _inherit(recipe.inherit, model, source.model)
        inputs["inherited"] = source.spec.model_digest
    lock(model, recipe.model.locked)
    if recipe.model.grad_checkpointing:
        checkpoint_gradients(model)
    return model, inputs


def check_student(recipe: Recipe, architecture: Architecture, teacher: Path | None) -> None:
    """Raises what `build_student` would raise, without reading or allocating weights: call before long work."""
    with torch.device("meta"):
        model = build_model(architecture)
        if recipe.inherit is not None:
            source = read_checkpoint_architecture(_source(recipe.inherit, teacher))
            _inherit(recipe.inherit, model, build_model(source))
    if recipe.model.grad_checkpointing:
        checkpoint_gradients(model)


def _inherit(config: InheritConfig, student: ClipModel, source: ClipModel) -> None:
    inherit(student, source, image=config.choice("image"), text=config.choice("text"))


def _source(config: InheritConfig, teacher: Path | None) -> Path:
    if not config.from_teacher:
        return Path(config.source)
    if teacher is None:
        raise UsageError("the recipe's student inherits from the teacher", remedy="pass --teacher CHECKPOINT")
    return teacher
