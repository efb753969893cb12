"""A whole run, from a recipe and paths to a sealed student: what `kdx distill`, the demo and the benchmarks call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import check_free, check_place, check_space
from kdx.core.progress import Stages, silent_stages
from kdx.core.urls import file_name, shown, url_of
from kdx.data.places import splits_there
from kdx.data.shards import ShardSet, open_split
from kdx.evaluate.dataset import check_task
from kdx.models.architectures import count_parameters
from kdx.models.checkpoint import RUN_KIND, read_checkpoint_spec

from .engine import RunResult, train
from .ranks import ALONE, Ranks
from .recipe import Recipe
from .student import check_student
from .teacher_cache import cache_size, is_stored, is_whole, made_in
from .teacher_source import TeacherSource
from .teachers import ask_at_each_step, cache_folders, default_cache, open_teachers, unlike_expected
from .tracking import check_trackers
from .unfinished import check_unfinished, unfinished_step

log = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    teachers: Sequence[Path] = (),
    cache: Path | Sequence[Path] | None = None,
    teacher_online: bool = False,
    trackers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    stages: Stages = silent_stages,
    tell: Callable[[str], None] = log.warning,
) -> RunResult:
    """Trains the recipe's student on the train shards in `data` and seals the run at `out`.

    teachers: checkpoints or runs, needed where the recipe distils or inherits. cache: where the teachers' embeddings
    are kept, or already lie, as `cache_folders` takes it; `out` with ".cache" added if not given. teacher_online: ask
    the teachers at each step and keep nothing. trackers: who gets the numbers too, names of TRACKERS. resume: go on
    with a run that was stopped there, if there is one. overwrite: replace a run that lies at `out`, finished or not.
    ranks: the processes that share the work, from `join_ranks`. stages: shows the progress of "teacher cache" and
    "training". tell: takes what the user should know and is no error.

    Everything that can be checked is checked before the first teacher is asked: the places to write, the data, the
    teachers, the student, the space on the disk. Raises what `open_teachers` and `train` raise, UsageError for places
    that do not go together, and SetupError for too little space. What is kept it tells when it is interrupted, and when
    the machine or a bug ends it.
    """
    check_trackers(trackers)
    if teacher_online and not recipe.objective.needs_teacher:
        raise UsageError("--teacher-online has no use: this recipe does not distil", remedy="leave it out")
    given = [cache] if isinstance(cache, Path) else list(cache or ())
    if teacher_online and given:
        raise UsageError("has no use beside --teacher-online", where=given[0], remedy="leave one of them out")
    places = _check_places(recipe, out, given, len(teachers), resume=resume, overwrite=overwrite)
    if not ranks.is_first:
        stages = silent_stages  # one process shows for all
    with ranks.first_ahead():
        samples = open_split(data, "train", stages=stages)
        val = _open_val(data, stages) if recipe.validate_every else None
    recipe, schedule = recipe.resolve(samples)
    ranks.local_batch_size(schedule.batch_size, recipe.accumulate)
    check_student(recipe, teachers)
    _check_space(recipe, samples, out, () if teacher_online else teachers, places)
    if ranks.is_first:
        for note in unlike_expected(recipe, teachers):
            tell(note)
        if recipe.validate_every and val is None:
            tell(
                f"note: nothing is scored every {recipe.validate_every:,} steps: {shown(data)} has no val split; "
                f"to hold a hundredth of the pairs out: --data '{shown(data)}#val=0.01'"
            )
        elif val is not None and val.shards and file_name(val.shards[0].path).startswith("test-"):
            tell(
                "note: there are no val-*.tar: the student is scored, and the best one chosen, on test-*.tar"
            )
    samples.fetch(stages, (ranks.rank, ranks.size))
    try:
        caches: Sequence[TeacherSource]
        if teacher_online or not recipe.objective.needs_teacher:
            caches = ask_at_each_step(recipe, samples, teachers)
        else:
            with stages("teacher cache") as progress:
                caches = open_teachers(recipe, samples, teachers, places, ranks=ranks, progress=progress)
        with stages("training") as progress:
            return train(
                recipe,
                samples,
                out,
                caches=caches,
                teachers=teachers,
                val=val,
                trackers=trackers,
                resume=resume,
                overwrite=overwrite,
                ranks=ranks,
                progress=progress,
            )
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        kept = _what_is_kept(recipe, out, places)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            kept = kept or "nothing is kept: the same command begins anew"
        if ranks.is_first and kept and not isinstance(error, (UsageError, DataError)):
            tell(kept)
        raise


def _open_val(data: Path, stages: Stages) -> ShardSet | None:
    """None where there is none. Raises DataError for one that nothing can be scored on."""
    if "val" not in splits_there(data):
        return None
    samples = open_split(data, "val", need_captions=False, stages=stages)
    check_task(samples)
    return samples


def _check_places(
    recipe: Recipe, out: Path, given: Sequence[Path], teachers: int, *, resume: bool, overwrite: bool
) -> list[Path]:
    """Returns where the teacher caches lie or will lie. Raises UsageError, SetupError where nothing can be written."""
    check_free(out, RUN_KIND, overwrite=overwrite)
    check_unfinished(out, resume=resume, overwrite=overwrite)
    if given and not recipe.objective.needs_teacher:
        raise UsageError(
            "has no use: this recipe does not distil", where=given[0], remedy="leave --cache out"
        )
    places = cache_folders(given or default_cache(out), max(1, teachers))
    for cache in places:
        if cache.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(cache.resolve()):
            raise UsageError(
                f"--cache and --out {out} must be two folders, none in the other",
                where=cache,
                remedy="choose another --cache",
            )
        check_place(made_in(cache))
    return places


def _check_space(
    recipe: Recipe, samples: ShardSet, out: Path, teachers: Sequence[Path], caches: Sequence[Path]
) -> None:
    """Raises SetupError unless there is room for the student and for the caches that have to be made."""
    student = 4 * count_parameters(recipe.architecture).total_params
    room = dict.fromkeys((_disk(made_in(cache)) for cache in caches), 0)
    if recipe.objective.needs_teacher:
        captions = int(samples.caption_counts.sum())
        for teacher, cache in zip(teachers, caches, strict=False):
            if url_of(cache) is not None and is_stored(cache):
                continue  # the cache of shards has a bound of its own
            width = read_checkpoint_spec(teacher).embed_dim
            whole = cache_size(width, len(samples), recipe.views.num_views, captions)
            room[_disk(made_in(cache))] += max(0, whole - _bytes_there(cache))
    for cache in caches:
        check_space(made_in(cache), room[_disk(made_in(cache))])
    students = 3 if recipe.validate_every else 1  # the best one too, and for a moment the one before it
    check_space(out, students * student + room.get(_disk(out), 0))


def _bytes_there(folder: Path) -> int:
    """Of a cache, or of what is done of one."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _disk(path: Path) -> int:
    return next(place for place in path.absolute().parents if place.exists()).stat().st_dev


def _what_is_kept(recipe: Recipe, out: Path, caches: Sequence[Path]) -> str | None:
    """A sentence on what the same command need not do again."""
    if (step := unfinished_step(out)) is not None:
        return f"the run after {step} steps is kept: the same command with --resume goes on"
    there = [cache for cache in caches if cache.exists() or url_of(cache) is not None]
    if recipe.objective.needs_teacher and there:
        kept = "is kept" if all(map(is_whole, caches)) else "is kept as far as it is made"
        again = "the same command uses it, and trains from the first step again"
        return f"the teacher cache {' and '.join(map(shown, there))} {kept}: {again}"
    return None
