"""The student as a recipe starts it: random or inherited weights, locked towers, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from timm.layers.norm_act import convert_sync_batchnorm

from kdx.core.errors import SetupError, UsageError
from kdx.core.tokenizers import Tokenizer
from kdx.models.architectures import build_model
from kdx.models.checkpoint import open_checkpoint, read_checkpoint_architecture, read_checkpoint_tokenizer
from kdx.models.clip import ClipModel
from kdx.models.grad_checkpointing import checkpoint_gradients
from kdx.models.inheritance import inherit
from kdx.models.locking import lock
from kdx.models.text_tokenizer import tokenizer_of

from .model_config import InheritConfig
from .objective_config import DISTILLING
from .recipe import Recipe


def build_student(
    recipe: Recipe, teachers: Sequence[Path], *, sync_batch_norms: bool = False
) -> tuple[ClipModel, dict[str, str]]:
    """The student on the CPU, and the digests of what it was made from, by name.

    teachers: the checkpoints or runs of --teacher; weights come from the first. sync_batch_norms: batch statistics
    are those of all processes, on GPUs. Raises UsageError when the recipe's choices do not fit together, DataError for
    a damaged checkpoint.
    """
    model = build_model(recipe.architecture, recipe.seed)
    inputs: dict[str, str] = {}
    if recipe.inherit is not None:
        source = open_checkpoint(_source(recipe.inherit, teachers))
        _inherit(recipe.inherit, model, source.model)
        inputs["inherited"] = source.spec.model_digest
    if sync_batch_norms:
        convert_sync_batchnorm(model)  # exchanges the norms in the model
    lock(model, recipe.model.locked)
    if recipe.model.grad_checkpointing:
        checkpoint_gradients(model)
    return model, inputs


def check_student(recipe: Recipe, teachers: Sequence[Path]) -> None:
    """Raises what `build_student` would raise, without reading or allocating weights: call before long work.

    Raises UsageError too when teachers are given that nothing needs, or none where one is needed.
    """
    if teachers and not recipe.needs_teacher:
        raise UsageError(
            "the recipe's objective does not use a teacher",
            remedy=f"leave --teacher out, or set a distilling term: objective.{', '.join(DISTILLING)}",
        )
    if recipe.objective.needs_teacher and not teachers:
        raise UsageError(
            f"the recipe distils ({', '.join(recipe.objective.methods)}) and needs a teacher",
            remedy=_how_to_get(recipe),
        )
    recipe.objective.check_teachers(len(teachers))
    with torch.device("meta"):
        model = build_model(recipe.architecture)
        if recipe.inherit is not None:
            source = read_checkpoint_architecture(_source(recipe.inherit, teachers))
            _inherit(recipe.inherit, model, build_model(source))
    if recipe.model.grad_checkpointing:
        checkpoint_gradients(model)


def student_tokenizer(recipe: Recipe, teachers: Sequence[Path]) -> Tokenizer:
    """CLIP's, or the one that the student's architecture names: from a teacher or what it inherits from, else the hub.

    Raises SetupError where it is nowhere here and the hub cannot be reached, else what `tokenizer_of` raises.
    """
    text = recipe.architecture.text_cfg
    sources = [*teachers, *([] if recipe.inherit is None else [_source(recipe.inherit, teachers)])]
    for source in sources if text.tokenizer_name else ():
        other = read_checkpoint_architecture(source).text_cfg
        if (other.tokenizer_name, other.tokenizer_mode, other.tokenizer_kwargs) == (
            text.tokenizer_name,
            text.tokenizer_mode,
            text.tokenizer_kwargs,
        ):
            return read_checkpoint_tokenizer(source)
    try:
        return tokenizer_of(recipe.architecture)
    except SetupError as error:
        raise SetupError(
            error.what,
            where=error.where,
            remedy=f"run `hf download {text.tokenizer_name} --include 'tokenizer*'` where there is a network: it fills "
            "the hub's cache, which may be copied here",
        ) from None


def _how_to_get(recipe: Recipe) -> str:
    if not (imports := recipe.teacher_imports):
        return "pass --teacher CHECKPOINT" + "".join(f", a {name}" for name in recipe.teacher_names)
    given = " ".join(f"--teacher {place}" for place in imports)
    return f"{', '.join(imports.values())}, and pass {given}"


def _inherit(config: InheritConfig, student: ClipModel, source: ClipModel) -> None:
    inherit(student, source, image=config.choice("image"), text=config.choice("text"))


def _source(config: InheritConfig, teachers: Sequence[Path]) -> Path:
    if not config.from_teacher:
        return Path(config.source)
    if not teachers:
        raise UsageError("the recipe's student inherits from the teacher", remedy="pass --teacher CHECKPOINT")
    return teachers[0]
