"""What a run would cost and write, told without training: `kdx distill RECIPE --dry-run`.

FLOPs are those of the towers' matrix products and convolutions (kdx/models/flops.py); the losses, which are below one
per cent at 1,024 pairs, and the optimiser are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kdx.core.urls import shown
from kdx.data.order import count_steps_per_epoch
from kdx.data.sampling import spread
from kdx.data.shards import ShardSet
from kdx.models.architectures import Architecture, count_parameters, read_architecture
from kdx.models.checkpoint import read_checkpoint_architecture
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.flops import count_flops
from kdx.models.text_tokenizer import tokenizer_files_of

from .model_config import Tower
from .objective import Objective
from .recipe import Recipe
from .schedule import Schedule
from .student import check_student
from .teacher_cache import cache_size, is_stored
from .teachers import cache_folders, default_cache

BACKWARD = 2  # a backward pass costs two forward passes: by the activations, and by the weights
CAPTIONS_READ = 4096  # evenly spaced captions whose length is measured


@dataclass(frozen=True)
class ModelCost:
    """Parameters, with the logit scale among the text's, and FLOPs of one forward pass of one sample.

    masked_image_flops: MFD's pass of the image with hidden patches, 0 without it.
    """

    name: str
    embed_dim: int
    image_params: int
    text_params: int
    total_params: int
    image_flops: int
    text_flops: int
    masked_image_flops: int


@dataclass(frozen=True)
class PlannedFile:
    """bytes: about, None where it depends on what is not known yet. exists: it lies there and would be used."""

    path: str
    bytes: int | None = None
    exists: bool = False


@dataclass(frozen=True)
class Plan:
    """teachers: those of --teacher, else the one that the recipe names.

    pairs, epochs: None without known data; schedule and what follows from it: None where it depends on the data and
    these are not known. text_length: tokens of a batch's texts, the longest of each counting: measured in the data, or
    else the whole context, an upper bound. step_flops: the student's forward and backward pass of a batch, and with
    teachers online theirs forward. cache_flops: the teachers' forward passes over all views and captions; None where
    the data or the teacher is not known.
    """

    student: ModelCost
    teachers: tuple[ModelCost, ...]
    objective_params: int | None
    schedule: Schedule | None
    pairs_seen: int | None
    pairs: int | None
    pairs_from: Literal["data", "published"] | None
    epochs: float | None
    text_length: int
    text_length_from: Literal["data", "context"]
    step_flops: int | None
    training_flops: int | None
    cache_flops: int | None
    files: tuple[PlannedFile, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_run(
    recipe: Recipe,
    *,
    samples: ShardSet | None = None,
    teachers: Sequence[Path] = (),
    out: Path | None = None,
    cache: Path | Sequence[Path] | None = None,
    teacher_online: bool = False,
) -> Plan:
    """The plan of a run; nothing is made and no weights are read.

    samples: the training data, where it is at hand. teacher_online: without a cache. Raises UsageError for what could
    not be trained, as far as it shows, and DataError for a damaged teacher.
    """
    if teachers or not recipe.needs_teacher:
        check_student(recipe, teachers)
    out = out or Path("OUT")
    architecture = recipe.architecture
    pairs, pairs_from = _pairs(recipe, samples)
    schedule = recipe.schedule(pairs) if samples is None else recipe.resolve(samples)[1]
    length = _text_length(architecture, samples, schedule)
    mask = recipe.objective.mask_ratio if recipe.objective.masks_patches else None
    student = _cost(architecture, length, mask)
    a_pair = _passes(recipe, "image") * (student.image_flops + student.masked_image_flops)
    a_pair += _passes(recipe, "text") * student.text_flops
    costs = tuple(_cost(each, _text_length(each, samples, schedule)) for each in _teachers(recipe, teachers))
    if teacher_online:
        a_pair += sum(cost.image_flops + cost.text_flops for cost in costs)
    captions = _captions(samples, pairs)
    widths = [cost.embed_dim for cost in costs]
    objective_params = _objective_params(recipe, architecture.embed_dim, widths)
    return Plan(
        student=student,
        teachers=costs,
        objective_params=objective_params,
        schedule=schedule,
        pairs_seen=None if schedule is None else schedule.steps * schedule.batch_size,
        pairs=pairs,
        pairs_from=pairs_from,
        epochs=_epochs(recipe, schedule, samples, pairs),
        text_length=length,
        text_length_from="context" if samples is None else "data",
        step_flops=None if schedule is None else schedule.batch_size * a_pair,
        training_flops=None if schedule is None else schedule.steps * schedule.batch_size * a_pair,
        cache_flops=0 if teacher_online else _cache_flops(recipe, costs, pairs, captions),
        files=(
            *_run_files(recipe, out, student, objective_params),
            *(
                []
                if teacher_online
                else _cache_files(recipe, costs, pairs, captions, cache or default_cache(out))
            ),
        ),
    )


def _passes(recipe: Recipe, tower: Tower) -> int:
    """How many forward passes a tower's step is worth."""
    if tower in recipe.model.locked:
        return 1
    return 1 + BACKWARD + int(recipe.model.grad_checkpointing)


def _teachers(recipe: Recipe, teachers: Sequence[Path]) -> list[Architecture]:
    """Those given, or the named ones; a single one as often as the recipe has scales for teachers."""
    if teachers:
        return [read_checkpoint_architecture(path) for path in teachers]
    if not recipe.needs_teacher:
        return []
    named, scales = recipe.teacher_names, recipe.objective.teacher_scale
    if len(named) == 1 and isinstance(scales, tuple):
        named *= len(scales)
    return [read_architecture(name) for name in named]


def _cost(architecture: Architecture, text_length: int, mask_ratio: float | None = None) -> ModelCost:
    counts = count_parameters(architecture)
    flops = count_flops(architecture, text_length, mask_ratio)
    return ModelCost(
        architecture.name,
        architecture.embed_dim,
        counts.image_params,
        counts.text_params,
        counts.total_params,
        flops.image,
        flops.text,
        flops.masked_image,
    )


def _text_length(architecture: Architecture, samples: ShardSet | None, schedule: Schedule | None) -> int:
    """Of a batch's texts, in tokens; the whole context where all have it, or nothing is known of the data."""
    context = architecture.text_cfg.context_length
    if samples is None or schedule is None or architecture.text_padding == "full":
        return context
    return _longest_text(samples, schedule.batch_size, context)


def _longest_text(samples: ShardSet, batch_size: int, context: int) -> int:
    """The mean over batches of the longest text, rounded up: that of batch_size draws from the measured lengths.

    In CLIP's tokens, which are nearly as many as those of other tokenizers, and those would have to be fetched.
    """
    tokenizer = clip_tokenizer()
    rows = spread(len(samples), CAPTIONS_READ)
    captions = [caption for row in rows for caption in samples.captions(row)]
    lengths = np.sort([len(tokenizer.encode(caption, context)) for caption in captions])
    below = (np.arange(len(lengths) + 1) / len(lengths)) ** batch_size  # P(all draws among the i shortest)
    return int(np.ceil((lengths * np.diff(below)).sum() - 1e-9))


def _pairs(
    recipe: Recipe, samples: ShardSet | None
) -> tuple[int | None, Literal["data", "published"] | None]:
    if samples is not None:
        return len(samples), "data"
    if recipe.published is not None and recipe.published.train_pairs is not None:
        return recipe.published.train_pairs, "published"
    return None, None


def _captions(samples: ShardSet | None, pairs: int | None) -> int | None:
    """All captions of the data; without it one a pair."""
    if samples is None:
        return pairs
    return int(samples.caption_counts.sum())


def _epochs(
    recipe: Recipe, schedule: Schedule | None, samples: ShardSet | None, pairs: int | None
) -> float | None:
    if schedule is None:
        return recipe.epochs
    if samples is not None:
        return schedule.steps / count_steps_per_epoch(samples, schedule.batch_size)
    return None if pairs is None else schedule.steps * schedule.batch_size / pairs


def _objective_params(recipe: Recipe, student_dim: int, widths: list[int]) -> int | None:
    """Of projections and scales; None if the teacher's width is not known."""
    if recipe.objective.needs_teacher and not widths:
        return None
    with torch.device("meta"):
        objective = Objective(recipe.objective, student_dim, widths)
    return sum(p.numel() for p in objective.parameters())


def _cache_flops(
    recipe: Recipe, teachers: Sequence[ModelCost], pairs: int | None, captions: int | None
) -> int | None:
    if not recipe.objective.needs_teacher:
        return 0
    if pairs is None or captions is None or not teachers:
        return None
    views = recipe.views.num_views
    return sum(pairs * views * teacher.image_flops + captions * teacher.text_flops for teacher in teachers)


def _run_files(
    recipe: Recipe, out: Path, student: ModelCost, objective_params: int | None
) -> list[PlannedFile]:
    learnt = [] if objective_params == 0 else [PlannedFile(str(out / "objective.safetensors"))]
    if learnt and objective_params is not None:
        learnt = [PlannedFile(str(out / "objective.safetensors"), 4 * objective_params)]
    names = ("recipe.toml", "metrics.jsonl", "skipped.jsonl", "manifest.json")
    inside = (*tokenizer_files_of(recipe.architecture), "config.json", "manifest.json")
    students = [out / "student", *([out / "best"] if recipe.validate_every else [])]
    return [
        *(PlannedFile(str(out / name)) for name in names),
        *learnt,
        *(
            file
            for place in students
            for file in (
                PlannedFile(str(place / "model.safetensors"), 4 * student.total_params),
                *(PlannedFile(str(place / name)) for name in inside),
            )
        ),
    ]


def _cache_files(
    recipe: Recipe,
    teachers: Sequence[ModelCost],
    pairs: int | None,
    captions: int | None,
    cache: Path | Sequence[Path],
) -> list[PlannedFile]:
    """One folder a teacher."""
    if not recipe.objective.needs_teacher:
        return []
    files: list[PlannedFile] = []
    for number, folder in enumerate(cache_folders(cache, max(1, len(teachers)))):
        size = None
        if teachers and pairs is not None and captions is not None:
            width = teachers[number].embed_dim
            size = cache_size(width, pairs, recipe.views.num_views, captions)
        files.append(PlannedFile(shown(folder), size, exists=is_stored(folder)))
    return files
