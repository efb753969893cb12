"""What a Matryoshka student's first dimensions are worth: beside students of that width, and a student cut to it.

Three kinds of students at each seed, on the same pairs, steps and views: one that the recipe trains at all widths
(`objective.dims`), one that it trains as it is, whose embeddings are cut, and for each narrower width one whose
embeddings are no wider. A folder of kind `widths` holds `widths.json` and `runs/KIND-SEED/`.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kdx.core.errors import UsageError
from kdx.core.folders import check_free
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance, cpu_count
from kdx.data.shards import open_split
from kdx.distill import open_teachers, read_recipe, run_recipe
from kdx.distill.recipe import Recipe
from kdx.evaluate import evaluate_dataset
from kdx.models.architecture import Architecture
from kdx.models.checkpoint import read_checkpoint_spec
from kdx.runtime.torch import TorchEncoder

from .methods_work import Task, finished_seconds, run_all, work_on_comparison
from .spread import percent, stdev

KIND = "widths"
TOGETHER, CUT, ALONE = "matryoshka", "cut", "alone"


class _Narrow(Recipe):
    """The same recipe for a student whose embeddings have so many numbers."""

    embed_dim: int

    @property
    def architecture(self) -> Architecture:
        return super().architecture.changed(embed_dim=self.embed_dim)


@dataclass(frozen=True)
class Job:
    """What all tasks share."""

    recipe: str
    dims: tuple[int, ...]
    pairs: Path
    data: Path
    teacher: Path
    cache: Path
    runs: Path
    limit: int | None
    threads: int


@dataclass(frozen=True)
class Row:
    """What one student scores at one width: top-1, or mean recall@1 without classes; all recalls with captions."""

    kind: str
    dimensions: int
    seed: int
    score: float
    recalls: dict[str, float]
    seconds: float


def compare_widths(
    recipe: str,
    dims: Sequence[int],
    pairs: Path,
    data: Path,
    teacher: Path,
    out: Path,
    *,
    settings: Sequence[str] = (),
    seeds: int = 3,
    jobs: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains and evaluates all, and seals the folder `out`. Returns what widths.json says.

    dims: as objective.dims. recipe: any without dims; settings: on top of it. pairs: what is trained on; data: whose
    val split is evaluated, at most `limit` images. seeds: 0 … seeds − 1. jobs: runs at a time. After an interruption
    the same call goes on. Raises UsageError for widths that the student cannot have, DataError for bad shards or a bad
    teacher, SetupError when a run's process is killed.
    """
    check_free(out, KIND, overwrite=overwrite)
    plain = read_recipe(recipe, settings)
    if plain.objective.dims:
        raise UsageError(
            "this recipe has objective.dims already", where=recipe, remedy="give one without, and --dims"
        )
    together = f"objective.dims={list(dims)}"
    widths = read_recipe(recipe, [*settings, together]).matryoshka_dims
    if not widths:
        raise UsageError("one width is no comparison", remedy="give --dims a narrower one too")
    if not plain.needs_teacher:
        raise UsageError("has no distilling term", where=recipe, remedy="give a recipe that distils")
    samples = open_split(pairs, "train")
    identity = {
        "recipe": plain.model_dump(mode="json"),
        "dims": list(widths),
        "pairs": samples.digest,
        "teacher": read_checkpoint_spec(teacher).model_digest,
        "seeds": seeds,
    }
    kinds = {TOGETHER: (together,), CUT: (), **{f"{ALONE}-{width}": () for width in widths[:-1]}}
    tasks = [
        Task(kind, seed, (*settings, *more, f"seed={seed}"))
        for seed in range(seeds)
        for kind, more in kinds.items()
    ]
    with work_on_comparison(out, KIND, identity, overwrite=overwrite) as folder:
        job = Job(
            recipe=recipe,
            dims=widths,
            pairs=pairs,
            data=data,
            teacher=teacher,
            cache=folder / "teacher.cache",
            runs=folder / "runs",
            limit=limit,
            threads=max(1, cpu_count() // jobs),
        )
        job.runs.mkdir(exist_ok=True)
        with TorchEncoder.open(teacher) as encoder:
            scored = evaluate_dataset(encoder, data, limit=limit)
        open_teachers(plain, samples, [teacher], job.cache)  # once, before many runs ask for it
        rows = [row for each in run_all(functools.partial(_run, job), tasks, jobs, progress) for row in each]
        document = {
            "recipe": plain.model_dump(mode="json", exclude_none=True),
            "dims": list(widths),
            "pairs": len(samples),
            "metric": scored.metric,
            "num_images": scored.num_images,
            "teacher": scored.score,
            "students": _summary(rows, widths),
            "runs": [asdict(row) for row in rows],
            "provenance": collect_provenance(inputs={"pairs": samples.digest}),
        }
        (folder / "widths.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _run(job: Job, task: Task) -> list[Row]:
    """Of one student, at each width that it is compared at."""
    import torch

    torch.set_num_threads(job.threads)
    run = job.runs / f"{task.method}-{task.seed}"
    seconds = finished_seconds(run)
    if seconds is None:
        seconds = run_recipe(
            _recipe(job, task),
            job.pairs,
            run,
            teachers=[job.teacher],
            cache=job.cache,
            resume=True,
            tell=lambda note: None,
        ).seconds
    with TorchEncoder.open(run) as student:
        if task.method == CUT:
            # what it scores if it is used as one that was trained for this
            student.spec = replace(student.spec, matryoshka_dims=job.dims)
            student.identity = None
        evaluation = evaluate_dataset(student, job.data, limit=job.limit)
    rows: list[Row] = []
    at_widths = {each.dimensions: each for each in evaluation.at_widths} or {
        student.spec.embed_dim: evaluation
    }
    for width, scores in at_widths.items():
        found = {} if scores.retrieval is None else scores.retrieval.mean_recall
        score = scores.zero_shot.top1.value if scores.zero_shot else found[1]
        recalls = {f"recall@{k}": recall for k, recall in found.items()}
        kind = ALONE if task.method.startswith(ALONE) else task.method
        rows.append(Row(kind, width, task.seed, score, recalls, seconds))
    return rows


def _recipe(job: Job, task: Task) -> Recipe:
    recipe = read_recipe(job.recipe, task.settings)
    kind, _, width = task.method.partition("-")
    return _Narrow(**recipe.model_dump(), embed_dim=int(width)) if kind == ALONE else recipe


def _summary(rows: list[Row], widths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """By kind and width the mean and the sample's standard deviation over the seeds. The recipe's own student, cut to
    its whole width, is the one that was trained alone at it."""
    summary: dict[str, dict[str, Any]] = {}
    for kind in (TOGETHER, ALONE, CUT):
        summary[kind] = {}
        for width in widths:
            of = CUT if kind == ALONE and width == widths[-1] else kind
            found = [row for row in rows if (row.kind, row.dimensions) == (of, width)]
            summary[kind][str(width)] = {
                **_spread([row.score for row in found]),
                "recalls": {name: _spread([row.recalls[name] for row in found]) for name in found[0].recalls},
                "seconds": statistics.mean(row.seconds for row in found),
            }
    return summary


def _spread(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.mean(values), "std": stdev(values)}


def widths_table(document: dict[str, Any]) -> str:
    """A Markdown table: a row for each width, and for retrieval a table for each cutoff."""
    students = document["students"]
    cutoffs = ["recall@1", "recall@5", "recall@10"] if document["metric"] == "retrieval_recall@1" else [None]
    tables: list[str] = []
    for cutoff in cutoffs:
        lines = [f"| dimensions | {' | '.join(students)} |", f"|{'---|' * (1 + len(students))}"]
        for width in map(str, document["dims"]):
            found = [by_width[width] for by_width in students.values()]
            spreads = (each if cutoff is None else each["recalls"][cutoff] for each in found)
            cells = [percent(each["mean"], each["std"]) for each in spreads]
            lines.append(f"| {width} | {' | '.join(cells)} |")
        tables.append("\n".join([cutoff or document["metric"], "", *lines]))
    return "\n\n".join([f"teacher: {document['metric']} {100 * document['teacher']:.1f} %", *tables])
