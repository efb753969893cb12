"""Which method helps: one student with each objective in turn, on the same pairs, steps, views and seeds.

A folder of kind `methods` holds `methods.json` and `runs/METHOD-SEED/`, the trained runs.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kdx
from kdx.core.encoder import FloatArray
from kdx.core.errors import KdxError, UsageError
from kdx.core.folders import check_free
from kdx.core.log import read_metrics
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance, cpu_count
from kdx.data.sampling import readable_samples
from kdx.data.shards import open_split
from kdx.distill import open_teachers, read_recipe, run_recipe
from kdx.evaluate import Evaluation, evaluate_dataset
from kdx.models.checkpoint import read_checkpoint_spec
from kdx.runtime.torch import TorchEncoder

from .methods_work import Task, finished_seconds, run_all, work_on_comparison
from .spread import percent, stdev

KIND = "methods"
BASELINE = "baseline"
COSINE_IMAGES = 1_000  # held-out images on which student and teacher are compared


@dataclass(frozen=True)
class Job:
    """What all tasks of a comparison share."""

    recipe: str
    pairs: Path
    data: Path
    teacher: Path
    cache: Path
    runs: Path
    limit: int | None
    threads: int
    teacher_images: FloatArray  # [n, D], of evenly spaced held-out images


@dataclass(frozen=True)
class Row:
    """What one run scored. teacher_cosine: mean over held-out images; None where the widths differ.

    recalls: "recall@1", "recall@5" and "recall@10", each the mean of both directions, where images have captions.
    error: why the run failed, in place of the numbers.
    """

    method: str
    seed: int
    score: float | None
    teacher_cosine: float | None
    seconds: float | None
    recalls: dict[str, float]
    terms: dict[str, float]
    error: str | None = None


def method_settings(teacher_dim: int) -> dict[str, tuple[str, ...]]:
    """The objective of each method with the published strength (see ObjectiveConfig), as settings of a recipe.

    Each beside the task loss, as the single-method runs of arXiv 2307.12732. GD stands twice: as the released code
    computes it with its weight 1e8, and in the paper's form, whose squared gradients are κ⁴ times larger, with a
    weight near 1 / (4 κ²) at the initial κ = 1 / 0.07, so that the term begins near 1.
    """
    fd = 2000 / teacher_dim
    return {
        BASELINE: (),
        "crd": ("objective.crd=0.5",),
        "fd": (f"objective.fd={fd}",),
        "mfd": (f"objective.mfd={fd}",),
        "gd": ("objective.gd=1e-3",),
        "gd-released": ("objective.gd=1e8", "objective.compat='clip-kd'"),
        "icl": ("objective.icl=1",),
        "afd": ("objective.afd=1",),
        "cross-kd": ("objective.cross_kd=1",),
        "open-clip": ("objective.affinity=1",),
        "tinyclip": ("objective.affinity=1", "objective.teacher_scale=50"),
        "clip-kd": ("objective.crd=0.5", "objective.icl=1", f"objective.fd={fd}"),
    }


def compare_methods(
    recipe: str,
    pairs: Path,
    data: Path,
    teacher: Path,
    out: Path,
    *,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: int = 3,
    jobs: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains the recipe's student with each method and seed, evaluates all, and seals the folder `out`.

    recipe: one without a distilling term; settings: on top of it. pairs: what is trained on; data: whose val
    split is evaluated, at most `limit` images. only: names of methods to compare with the baseline; all if empty.
    seeds: 0 … seeds − 1. jobs: runs at a time. A method that the student cannot do is left out, a run that fails is
    recorded with its error. Returns what methods.json says. Raises UsageError for what no method could train,
    DataError for bad shards or a bad teacher, SetupError when a run's process is killed.
    """
    check_free(out, KIND, overwrite=overwrite)
    if read_recipe(recipe, settings).objective.needs_teacher:
        raise UsageError(
            "this recipe distils, the comparison needs its baseline",
            where=recipe,
            remedy="give one without a method",
        )
    samples = open_split(pairs, "train")
    identity = {
        "recipe": read_recipe(recipe, settings).model_dump(mode="json"),
        "pairs": samples.digest,
        "teacher": read_checkpoint_spec(teacher).model_digest,
        "only": list(only),
        "seeds": seeds,
    }
    with work_on_comparison(out, KIND, identity, overwrite=overwrite) as folder:
        with TorchEncoder.open(teacher) as encoder:
            methods = _chosen(method_settings(encoder.spec.embed_dim), only)
            teacher_score = evaluate_dataset(encoder, data, limit=limit)
            job = Job(
                recipe=recipe,
                pairs=pairs,
                data=data,
                teacher=teacher,
                cache=folder / "teacher.cache",
                runs=folder / "runs",
                limit=limit,
                threads=max(1, cpu_count() // jobs),
                teacher_images=encoder.embed_images(_held_out(data)),
            )
        job.runs.mkdir(exist_ok=True)
        tasks, left_out = _tasks(recipe, settings, methods, seeds)
        shared = read_recipe(recipe, [*settings, "objective.crd=1"])
        open_teachers(shared, samples, [teacher], job.cache)  # once, before many runs ask for it
        rows = run_all(functools.partial(_run, job), tasks, jobs, progress)
        document = {
            "recipe": read_recipe(recipe, settings).model_dump(mode="json", exclude_none=True),
            "pairs": len(samples),
            "metric": teacher_score.metric,
            "num_images": teacher_score.num_images,
            "teacher": teacher_score.score,
            "teacher_recalls": _recalls(teacher_score),
            "methods": {
                name: _summary(name, methods[name], rows) for name in methods if name not in left_out
            },
            "left_out": left_out,
            "runs": [asdict(row) for row in rows],
            "provenance": collect_provenance(inputs={"pairs": samples.digest}),
        }
        (folder / "methods.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _chosen(methods: dict[str, tuple[str, ...]], only: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The baseline and those of these names; all if there are none. Raises UsageError for a name that is none."""
    for name in only:
        if name not in methods:
            raise UsageError(f"there is no method {name}", remedy=f"choose from {', '.join(methods)}")
    return {name: each for name, each in methods.items() if not only or name in ("baseline", *only)}


def _tasks(
    recipe: str, settings: Sequence[str], methods: dict[str, tuple[str, ...]], seeds: int
) -> tuple[list[Task], dict[str, str]]:
    """All runs, seed by seed, and why a method is left out, by its name."""
    left_out: dict[str, str] = {}
    for name, objective in methods.items():
        try:
            read_recipe(recipe, [*settings, *objective])
        except UsageError as error:
            left_out[name] = error.what
    tasks = [
        Task(name, seed, (*settings, *objective, f"seed={seed}"))
        for seed in range(seeds)
        for name, objective in methods.items()
        if name not in left_out
    ]
    return tasks, left_out


def _run(job: Job, task: Task) -> Row:
    import torch

    torch.set_num_threads(job.threads)
    recipe = read_recipe(job.recipe, task.settings)
    run = job.runs / f"{task.method}-{task.seed}"
    try:
        seconds = finished_seconds(run)
        if seconds is None:
            seconds = run_recipe(
                recipe,
                job.pairs,
                run,
                teachers=[job.teacher] if recipe.needs_teacher else [],
                cache=job.cache if recipe.objective.needs_teacher else None,
                resume=True,
                tell=lambda note: None,
            ).seconds
        with kdx.load(run) as student:
            evaluation = evaluate_dataset(student, job.data, limit=job.limit)
            images = student.embed_images(_held_out(job.data))
    except KdxError as error:
        return Row(task.method, task.seed, None, None, None, {}, {}, error.what)
    last = read_metrics(run / "metrics.jsonl")[-1]
    return Row(
        method=task.method,
        seed=task.seed,
        score=evaluation.score,
        teacher_cosine=_mean_cosine(images, job.teacher_images),
        seconds=seconds,
        recalls=_recalls(evaluation),
        terms={name: last[name] for name in ("task", *recipe.objective.methods) if name in last},
    )


def _recalls(evaluation: Evaluation) -> dict[str, float]:
    retrieval = evaluation.retrieval
    return {} if retrieval is None else {f"recall@{k}": recall for k, recall in retrieval.mean_recall.items()}


def _mean_cosine(student: FloatArray, teacher: FloatArray) -> float | None:
    if student.shape != teacher.shape:
        return None
    return float(np.sum(student * teacher, axis=-1).mean())


def _held_out(data: Path) -> list[bytes]:
    """Evenly spaced images of the val split that decode."""
    return [sample.image for sample in readable_samples(open_split(data, "val"), COSINE_IMAGES)]


def _summary(method: str, settings: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    """Means and sample standard deviations over the seeds that ended."""
    ended = [row for row in rows if row.method == method and row.score is not None]
    scores = [row.score for row in ended if row.score is not None]
    cosines = [row.teacher_cosine for row in ended if row.teacher_cosine is not None]
    seconds = [row.seconds for row in ended if row.seconds is not None]
    return {
        "settings": list(settings),
        "num_seeds": len(scores),
        "mean": statistics.mean(scores) if scores else None,
        "std": stdev(scores),
        "recalls": {
            name: {"mean": statistics.mean(each), "std": stdev(each)}
            for name in (ended[0].recalls if ended else ())
            for each in ([row.recalls[name] for row in ended],)
        },
        "teacher_cosine": statistics.mean(cosines) if cosines else None,
        "seconds": statistics.mean(seconds) if seconds else None,
    }


def methods_table(document: dict[str, Any]) -> str:
    """What compare_methods() returned, as a Markdown table."""
    baseline = document["methods"]["baseline"]["mean"]
    more = ["recall@5", "recall@10"] if document["metric"] == "retrieval_recall@1" else []
    header = ["method", document["metric"], "gain", *more, "cosine to the teacher", "seconds"]
    table = [header, ["---"] * len(header)]
    teacher = [percent(document["teacher_recalls"][name]) for name in more]
    table.append(["teacher", percent(document["teacher"]), "", *teacher, "1", ""])
    for name, row in document["methods"].items():
        if row["mean"] is None:
            table.append([name, "failed", *[""] * (len(header) - 2)])
            continue
        gain = "" if baseline is None or name == "baseline" else f"{100 * (row['mean'] - baseline):+.1f}"
        cosine = "" if row["teacher_cosine"] is None else f"{row['teacher_cosine']:.2f}"
        each = [percent(row["recalls"][name]["mean"], row["recalls"][name]["std"]) for name in more]
        table.append([name, percent(row["mean"], row["std"]), gain, *each, cosine, f"{row['seconds']:.0f}"])
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    lines += [f"\nleft out: {name}: {why}" for name, why in document["left_out"].items()]
    lines += [
        f"\nfailed: {run['method']}, seed {run['seed']}: {run['error']}"
        for run in document["runs"]
        if run["error"]
    ]
    return "\n".join(lines)
