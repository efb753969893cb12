"""A recipe's teachers: checkpoints whose embeddings are computed once, into one cache each, or at each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.core.errors import UsageError
from kdx.core.progress import Progress, silent
from kdx.data.shards import ShardSet
from kdx.models.checkpoint import read_checkpoint_architecture, read_checkpoint_spec

from .ranks import ALONE, Ranks
from .recipe import Precision, Recipe
from .student import check_student, student_tokenizer
from .teacher_cache import Storage, TeacherCache, open_cache
from .teacher_in_loop import TeacherInLoop
from .teacher_model import TeacherModel


def open_teachers(
    recipe: Recipe,
    samples: ShardSet,
    teachers: Sequence[Path],
    cache: Path | Sequence[Path],
    *,
    storage: Storage | None = None,
    precision: Precision | None = None,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
) -> tuple[TeacherCache, ...]:
    """The cached embeddings of each teacher, computed and sealed where none lie; none if the recipe does not distil.

    teachers: checkpoints or runs; each sees images and texts through its own preprocessing and tokenizer. cache: where
    they lie, see `cache_folders`. storage and precision: of a cache that is made; see `open_cache` and `TeacherModel`.
    ranks: they share the work when all of them call this. Raises UsageError when the recipe needs no teacher, one is
    missing or given twice, for a student that cannot start as the recipe says, and for fewer samples than a batch: all
    that would only be found after hours of embedding.
    """
    models = _teacher_models(recipe, samples, teachers, precision)
    return tuple(
        open_cache(
            folder,
            model,
            samples,
            recipe.views,
            max_bad_share=recipe.max_bad_share,
            storage=storage,
            made_by=model.path,
            share=(ranks.rank, ranks.size),
            progress=progress,
        )
        for folder, model in zip(cache_folders(cache, len(models)), models, strict=False)
    )


def ask_at_each_step(
    recipe: Recipe, samples: ShardSet, teachers: Sequence[Path]
) -> tuple[TeacherInLoop, ...]:
    """The teachers themselves, in the run's precision, for a run without a cache.

    Raises UsageError as `open_teachers`.
    """
    return tuple(
        TeacherInLoop(model, samples, recipe.views, recipe.architecture.preprocess)
        for model in _teacher_models(recipe, samples, teachers, recipe.precision)
    )


def _teacher_models(
    recipe: Recipe, samples: ShardSet, teachers: Sequence[Path], precision: Precision | None
) -> list[TeacherModel]:
    """None if the recipe does not distil."""
    check_student(recipe, teachers)
    student_tokenizer(recipe, teachers)
    recipe.resolve(samples)
    _check_different(teachers)
    if not recipe.objective.needs_teacher:
        return []
    return [TeacherModel(teacher, precision) for teacher in teachers]


def default_cache(out: Path) -> Path:
    """Where the teacher cache of a run lies that is given no other place."""
    return out.with_name(f"{out.name}.cache")


def cache_folders(cache: Path | Sequence[Path], count: int) -> list[Path]:
    """Of so many teachers: a place for each, or the first one's, where the second's has ".2" added, and so on.

    Raises UsageError for another number of places.
    """
    given = [cache] if isinstance(cache, Path) else list(cache)
    if len(given) == 1:
        further = (given[0].with_name(f"{given[0].name}.{number}") for number in range(2, count + 1))
        return [given[0], *further]
    if len(given) != count:
        raise UsageError(
            f"--cache is given {len(given)} times for {count} teachers",
            remedy="give one for each, in the order of --teacher, or a single one",
        )
    if twice := [place for number, place in enumerate(given) if place in given[:number]]:
        raise UsageError("is given as the cache of two teachers", where=twice[0], remedy="give each its own")
    return given


def describe_teachers(teachers: Sequence[Path]) -> list[dict[str, str]]:
    """Name, path and digest of each, as a run and a teacher cache record them. Raises DataError for a damaged one."""
    specs = [(path, read_checkpoint_spec(path)) for path in teachers]
    return [{"name": spec.name, "path": str(path), "digest": spec.model_digest} for path, spec in specs]


def unlike_expected(recipe: Recipe, teachers: Sequence[Path]) -> list[str]:
    """A sentence for each teacher of another architecture than the recipe's weights are set for."""
    expected = recipe.teacher_names
    if not expected or not recipe.objective.needs_teacher:
        return []
    named = expected * len(teachers) if len(expected) == 1 else expected
    notes = [
        f"note: {path} is {name}; the weights of this recipe are set for {wanted}"
        for path, wanted in zip(teachers, named, strict=False)
        if (name := read_checkpoint_architecture(path).name) != wanted
    ]
    if teachers and len(named) != len(teachers):
        notes.append(
            f"note: this recipe is set for {len(expected)} teachers, {' and '.join(expected)}, not for {len(teachers)}"
        )
    return notes


def _check_different(teachers: Sequence[Path]) -> None:
    digests = [read_checkpoint_spec(teacher).model_digest for teacher in teachers]
    for number, teacher in enumerate(teachers):
        if digests[number] in digests[:number]:
            first = teachers[digests.index(digests[number])]
            raise UsageError(f"is the teacher {first} again", where=teacher, remedy="give each teacher once")
