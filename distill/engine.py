"""The training engine: from a recipe and shards to a sealed run with a student in it.

A run folder (kind `run`) holds `recipe.toml` (resolved), `metrics.jsonl`, `skipped.jsonl` (samples whose image
does not decode), `student/`, a Checkpoint, `best/`, another one, if the student was scored while it trained, and
`objective.safetensors`, the objective's projections and scales if it has any. Its manifest tells the run: student,
methods, teachers, data, length, last numbers, scores, bad images, seconds and device.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save_model

from kdx.core.errors import KdxError, UsageError
from kdx.core.folders import check_free
from kdx.core.log import MetricsLog
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance, cpu_count
from kdx.core.tokenizers import Tokenizer
from kdx.core.urls import shown
from kdx.core.workspace import full_disk_said
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Loader, ViewReader
from kdx.data.shards import ShardSet
from kdx.models.architecture import read_architecture
from kdx.models.checkpoint import RUN_KIND, describe, save_checkpoint
from kdx.models.clip import ClipModel

from .best_student import BestStudent
from .compiled_towers import compile_towers
from .devices import Device, find_device
from .doubts import Doubts, score_teachers
from .ema import WeightAverage
from .interruption import Interruption
from .keeping import Keeper
from .loop import Loop, Stopped
from .objective import Objective
from .optimizer import build_optimizer
from .ranks import ALONE, Ranks
from .recipe import Recipe
from .run_state import RunState
from .student import build_student, student_tokenizer
from .teacher_source import TeacherSource
from .teachers import describe_teachers
from .tracking import tracked
from .unfinished import RunIdentity, RunWork, check_unfinished, work_on_run
from .validation import Validation, beside

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a finished run reports. final_loss: the last step's; bad_images: skipped samples.

    cache_reused: whether every teacher's cache lay there already; None without a teacher. validation: what the manifest
    says of the scores, None without them.
    """

    path: Path
    student: Path
    steps: int
    final_loss: float
    seconds: float
    bad_images: int
    cache_reused: bool | None
    validation: dict[str, Any] | None


def train(
    recipe: Recipe,
    samples: ShardSet,
    out: Path,
    *,
    caches: Sequence[TeacherSource] = (),
    teachers: Sequence[Path] = (),
    val: ShardSet | None = None,
    trackers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
) -> RunResult:
    """Trains the recipe's student on `samples` and seals the run at `out`.

    caches: what `open_teachers` or `ask_at_each_step` returned; teachers: what it was given. val: what the student is
    scored on while it trains, where the recipe says so. trackers: names of TRACKERS. resume: go on with the run that
    was stopped there, if there is one. ranks: the processes that share the work, from `join_ranks`; the first one
    writes. Raises UsageError for what cannot be or a loss that is not finite,
    DataError for bad shards, SetupError where the student cannot be written, which is tried before the first step.

    Until it is sealed the run lies beside `out`, with ".unfinished" added, and stays there after an error or an
    interruption if a state of it was written (keeping.py). After the first step, the student is on an error sealed
    beside it, with ".stopped" added, and the error's remedy names it; so also when a finished run cannot be sealed, or
    is interrupted then.
    """
    started = time.monotonic()
    check_free(out, RUN_KIND, overwrite=overwrite)
    check_unfinished(out, resume=resume, overwrite=overwrite)
    recipe, schedule = recipe.resolve(samples)
    ranks.local_batch_size(schedule.batch_size, recipe.accumulate)
    device = find_device(recipe.precision)
    compiled = recipe.compile and device.is_gpu
    recipe = recipe.model_copy(update={"precision": device.precision, "compile": compiled})
    architecture, tokenizer = recipe.architecture, student_tokenizer(recipe, teachers)
    state, inherited = _build_state(recipe, teachers, caches, device, ranks)
    model, objective = state.model, state.objective
    reader, loader = _open_loader(recipe, samples, schedule.batch_size, model, tokenizer, device, ranks)
    taught_by = describe_teachers(teachers)
    digests = [each["digest"] for each in taught_by]
    inputs = {**inherited, **_numbered("teacher", digests), "data": samples.digest}
    seeds = {"recipe": recipe.seed, "views": recipe.views.seed}
    origin: dict[str, Any] = {"inputs": inputs, "seeds": seeds, "matryoshka_dims": recipe.matryoshka_dims}
    if not recipe.validate_every:
        val = None
    val_digest = None if val is None else val.digest
    online = any(cache.online for cache in caches)
    identity = RunIdentity(recipe.model_dump(mode="json"), samples.digest, digests, online, val_digest)

    def save_student(place: Path, *, overwrite: bool = False) -> None:
        with state.student():
            save_checkpoint(place, model, architecture, tokenizer, overwrite=overwrite, **origin)

    with contextlib.ExitStack() as writing:
        work = writing.enter_context(work_on_run(out, identity, ranks, resume=resume, overwrite=overwrite))
        before = {} if work.first_step is None else work.states.load(work.first_step, state)
        reader.bad.update({int(row): why for row, why in before.get("bad", {}).items()})
        validation = None
        if val is not None:
            telling = beside(progress, state.step, schedule.steps, "scoring the teacher")
            best, doubts = _judges(recipe, teachers, val, work, ranks, telling)
            validation = Validation(
                val,
                architecture,
                tokenizer,
                state,
                ranks,
                best,
                doubts,
                every=recipe.validate_every,
                steps=schedule.steps,
                origin=origin,
            )
        loop = Loop(recipe, schedule, state, caches, device, ranks, validation)
        writing.enter_context(_student_kept(out, loop, save_student, ranks))
        writing.enter_context(full_disk_said(out))
        folder = metrics = None
        if ranks.is_first:
            folder = work.folder
            (folder / "recipe.toml").write_text(_as_toml(recipe, taught_by), encoding="utf-8")
            metrics = writing.enter_context(MetricsLog(folder / "metrics.jsonl"))
            if trackers:
                metrics = writing.enter_context(
                    tracked(metrics, trackers, out, recipe.model_dump(mode="json"))
                )
            save_student(folder / "student")  # what cannot be saved is found now, not after the last step
            _save_objective(objective, folder)
            shutil.rmtree(folder / "student")
        with device.fork_rng(), Interruption() as interruption:
            keeper = Keeper(
                work.states,
                state,
                schedule.steps,
                ranks,
                interruption,
                work.folder / "metrics.jsonl",
                before.get("seconds", 0.0),
            )
            seen = architecture.preprocess
            last = loop.run(loader, reader, seen.mean, seen.std, metrics, progress, keeper.after_step)
        bad = ranks.merge(reader.bad)
        scores = None
        if folder is not None:
            _write_skipped(folder / "skipped.jsonl", samples, bad)
            if loop.captions_cut:
                log.warning(
                    "%d of %d captions that were read were longer than %d tokens, and were cut",
                    loop.captions_cut,
                    loop.captions_read,
                    model.context_length,
                )
            save_student(folder / "student")
            _save_objective(objective, folder)
            scores = None if validation is None else validation.finish()
            fields = {
                "about": recipe.about,
                "student": architecture.name,
                "methods": list(recipe.objective.methods),
                "teachers": taught_by,
                "data": {"path": shown(samples.folder), "pairs": len(samples), "digest": samples.digest},
                "steps": schedule.steps,
                "batch_size": schedule.batch_size,
                "epochs": schedule.steps / loader.steps_per_epoch,
                "final": last,
                **({} if scores is None else {"validation": scores}),
                "bad_images": len(bad),
                **({"captions_cut": loop.captions_cut} if loop.captions_cut else {}),
                "seconds": keeper.seconds,
                "device": device.name,
                "processes": ranks.size,
            }
            provenance = collect_provenance(inputs=inputs, seeds=seeds)
            work.seal(provenance, fields, overwrite=overwrite)
    return RunResult(
        path=out,
        student=out / "student",
        steps=schedule.steps,
        final_loss=last["loss"],
        seconds=time.monotonic() - started,
        bad_images=len(bad),
        cache_reused=all(cache.reused for cache in caches) if caches else None,
        validation=scores,
    )


def _build_state(
    recipe: Recipe, teachers: Sequence[Path], caches: Sequence[TeacherSource], device: Device, ranks: Ranks
) -> tuple[RunState, dict[str, str]]:
    """The state before the first step, on the device, and the digests of what the student begins with, by name."""
    model, inputs = build_student(recipe, teachers, sync_batch_norms=ranks.size > 1 and device.is_gpu)
    model = model.to(device.place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.compile:
        compile_towers(model, masks_patches=recipe.objective.masks_patches)
    objective = _build_objective(recipe, recipe.architecture.embed_dim, caches, ranks).to(device.place)
    optimizer = build_optimizer((model, objective), recipe.optimizer)
    average = None if recipe.ema is None else WeightAverage(model, recipe.ema)
    return RunState(model, objective, optimizer, device.scaler(), average), inputs


def _open_loader(
    recipe: Recipe,
    samples: ShardSet,
    batch_size: int,
    model: ClipModel,
    tokenizer: Tokenizer,
    device: Device,
    ranks: Ranks,
) -> tuple[ViewReader, Loader]:
    """The pixels and tokens of this process's rows. batch_size: of all."""
    preprocess = recipe.architecture.preprocess
    # of several ranks each sees a part of the bad images: the loop counts them all
    max_bad_share = recipe.max_bad_share if ranks.size == 1 else 1.0
    reader = ViewReader(samples, preprocess, recipe.views, max_bad_share=max_bad_share)
    spec = describe(model, recipe.architecture, tokenizer, weights_digest="")
    loader = Loader(
        reader,
        captions=CaptionTokens.of(samples, spec, tokenizer),
        batch_size=batch_size,
        seed=recipe.seed,
        rank=ranks.rank,
        num_ranks=ranks.size,
        num_workers=_decoders(device, ranks),
    )
    return reader, loader


def _numbered(name: str, digests: Sequence[str]) -> dict[str, str]:
    """The first one's name has no number."""
    return {name if number == 1 else f"{name}.{number}": each for number, each in enumerate(digests, 1)}


def _judges(
    recipe: Recipe, teachers: Sequence[Path], val: ShardSet, work: RunWork, ranks: Ranks, progress: Progress
) -> tuple[BestStudent | None, Doubts | None]:
    """What takes the scores, on the first rank; the others wait until the teachers are scored."""
    best = doubts = None
    if ranks.is_first:
        best = BestStudent(work.place / "val", work.folder)
        teaching = teachers if recipe.objective.needs_teacher else ()
        doubts = Doubts(score_teachers(teaching, val, work.place / "val/teachers.json", progress))
    ranks.wait()
    return best, doubts


@contextlib.contextmanager
def _student_kept(out: Path, loop: Loop, save: Callable[..., None], ranks: Ranks) -> Generator[None]:
    """What was learnt survives an error of the block, and an interruption of a run that has taken all its steps.

    The student is then sealed beside `out`, or in the folder for temporary files where that fails, and the place is
    added to the error's remedy, or logged. save: seals the student at a place.
    """
    try:
        yield
    except Stopped as stop:
        with ranks.first_ahead():  # an error of all: the others wait until it is saved
            kept = _keep(out, loop, save) if ranks.is_first else ""
        if kept:
            stop.error.remedy = f"{stop.error.remedy}; {kept}"
        raise stop.error from None
    except BaseException as error:
        finished = loop.state.step == loop.schedule.steps
        if not ranks.is_first or not loop.state.step or not (finished or isinstance(error, Exception)):
            raise
        kept = _keep(out, loop, save)
        if isinstance(error, KdxError):
            error.remedy = f"{error.remedy}; {kept}" if error.remedy else kept
        else:
            log.warning("%s", kept)
        raise


def _keep(out: Path, loop: Loop, save: Callable[..., None]) -> str:
    """A sentence on where the student is now."""
    name = f"{out.name}.stopped"
    why = ""
    for place in (out.with_name(name), Path(tempfile.gettempdir()) / name):
        try:
            save(place, overwrite=True)
        except KdxError as error:
            why = str(error)
        else:
            return f"the student after {loop.state.step} steps is {place}"
    return f"the student after {loop.state.step} steps could not be kept: {why}"


def _decoders(device: Device, ranks: Ranks) -> int:
    """How many threads or processes decode: where the CPU trains too, half of the cores."""
    cores = cpu_count() // ranks.local_size
    return max(1, cores - 1 if device.is_gpu else cores // 2)


def _as_toml(recipe: Recipe, taught_by: Sequence[Mapping[str, str]]) -> str:
    """The recipe with the teachers that really taught: by name where those are architectures', else in a comment."""
    said = "".join(f"# teacher: {each['name']}, {each['path']}, {each['digest']}\n" for each in taught_by)
    if taught_by:
        names = tuple(each["name"] for each in taught_by)
        if names != recipe.teacher_names:
            known = all(map(_is_known, names))
            teacher = (names if names[1:] else names[0]) if known else None
            recipe = recipe.model_copy(update={"teacher": teacher, "teacher_source": None})
    return said + tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _is_known(architecture: str) -> bool:
    try:
        read_architecture(architecture)
    except UsageError:
        return False
    return True


def _save_objective(objective: Objective, folder: Path) -> None:
    if objective.state_dict():
        save_model(objective, str(folder / "objective.safetensors"))


def _build_objective(
    recipe: Recipe, student_dim: int, caches: Sequence[TeacherSource], ranks: Ranks
) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        widths = [cache.embed_dim for cache in caches]
        return Objective(recipe.objective, student_dim, widths, ranks=ranks)


def _write_skipped(path: Path, samples: ShardSet, bad: dict[int, str]) -> None:
    lines = [json.dumps({"key": samples.keys[row], "why": why}) for row, why in sorted(bad.items())]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
