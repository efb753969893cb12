"""The training engine: from a recipe and shards to a sealed run with a student in it.

A run folder (kind `run`) holds `recipe.toml` (resolved), `metrics.jsonl`, `skipped.jsonl` (samples whose image
does not decode), `student/`, a Checkpoint, and `objective.safetensors`, the objective's projections and scales if
it has any.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import torch
from safetensors.torch import save_file

from kdx.core.errors import UsageError
from kdx.core.folders import check_free, sealed_folder
from kdx.core.log import MetricsLog
from kdx.core.progress import Progress, silent
from kdx.core.provenance import cpu_count
from kdx.data.loader import Loader, ViewReader
from kdx.data.shards import ShardSet
from kdx.models.checkpoint import RUN_KIND, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

from .loop import Loop, NotFinite
from .objective import Objective
from .ranks import ALONE, Ranks
from .recipe import Recipe
from .student import build_student
from .teacher_cache import TeacherCache


@dataclass(frozen=True)
class RunResult:
    """What a finished run reports. final_loss: the last step's; bad_images: skipped samples.

    cache_reused: whether every teacher's cache lay there already; None without a teacher.
    """

    path: Path
    student: Path
    steps: int
    final_loss: float
    seconds: float
    bad_images: int
    cache_reused: bool | None


def train(
    recipe: Recipe,
    samples: ShardSet,
    out: Path,
    *,
    caches: Sequence[TeacherCache] = (),
    teachers: Sequence[Path] = (),
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
) -> RunResult:
    """Trains the recipe's student on `samples` and seals the run at `out`.

    caches: what `open_teachers` returned; teachers: what it was given. ranks: the processes that share the work, from
    `join_ranks`; the first one writes. Raises UsageError for what cannot be, DataError for bad shards; nothing is
    left at `out` then. When a loss is not finite it raises UsageError too, and the last good student is sealed beside
    `out`, with ".stopped" added.
    """
    started = time.monotonic()
    check_free(out, RUN_KIND, overwrite=overwrite)
    recipe, schedule = recipe.resolve(samples)
    ranks.local_batch_size(schedule.batch_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = recipe.architecture
    model, inputs = build_student(recipe, teachers)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = _build_objective(recipe, architecture.embed_dim, caches, ranks).to(device)
    ranks.start_equal(model, objective)
    preprocess, tokenizer = architecture.preprocess, clip_tokenizer()
    # of several ranks each sees a part of the bad images: the loop counts them all
    reader = ViewReader(
        samples, preprocess, recipe.views, max_bad_share=recipe.max_bad_share if ranks.size == 1 else 1.0
    )
    loader = Loader(
        reader,
        tokenizer,
        context_length=model.context_length,
        batch_size=schedule.batch_size,
        seed=recipe.seed,
        rank=ranks.rank,
        num_ranks=ranks.size,
        num_threads=max(1, cpu_count() // 2 // ranks.local_size),
    )
    inputs["data"] = samples.digest
    seeds = {"recipe": recipe.seed, "views": recipe.views.seed}
    loop = Loop(recipe, schedule, model, objective, caches, device, ranks)
    with contextlib.ExitStack() as writing:
        folder = metrics = None
        if ranks.is_first:
            folder = writing.enter_context(
                sealed_folder(out, RUN_KIND, overwrite=overwrite, inputs=inputs, seeds=seeds)
            )
            (folder / "recipe.toml").write_text(
                tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
            )
            metrics = writing.enter_context(MetricsLog(folder / "metrics.jsonl"))
        try:
            with torch.random.fork_rng(
                devices=[torch.cuda.current_device()] if device.type == "cuda" else []
            ):
                final_loss = loop.run(loader, reader, preprocess.mean, preprocess.std, metrics, progress)
        except NotFinite as error:
            steps = loop.restore_last_good()
            stopped = out.with_name(f"{out.name}.stopped")
            with ranks.first_ahead():
                if ranks.is_first:
                    save_checkpoint(
                        stopped, model, architecture, tokenizer, overwrite=True, inputs=inputs, seeds=seeds
                    )
            raise UsageError(
                str(error),
                remedy=f"lower optimizer.lr or that term's weight; the student after {steps} steps is {stopped}",
            ) from None
        bad = ranks.merge(reader.bad)
        if folder is not None:
            _write_skipped(folder / "skipped.jsonl", samples, bad)
            if learnt := objective.state_dict():
                save_file(
                    {name: tensor.cpu() for name, tensor in learnt.items()}, folder / "objective.safetensors"
                )
            save_checkpoint(folder / "student", model, architecture, tokenizer, inputs=inputs, seeds=seeds)
    return RunResult(
        path=out,
        student=out / "student",
        steps=schedule.steps,
        final_loss=final_loss,
        seconds=time.monotonic() - started,
        bad_images=len(bad),
        cache_reused=all(cache.reused for cache in caches) if caches else None,
    )


def _build_objective(
    recipe: Recipe, student_dim: int, caches: Sequence[TeacherCache], ranks: Ranks
) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        widths = [cache.embed_dim for cache in caches]
        return Objective(recipe.objective, student_dim, widths, gather=ranks.gather)


def _write_skipped(path: Path, samples: ShardSet, bad: dict[int, str]) -> None:
    lines = [json.dumps({"key": samples.keys[row], "why": why}) for row, why in sorted(bad.items())]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
