"""How `kdx distill` shows recipes and plans to a reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdx.distill.plan import ModelCost, Plan
    from kdx.distill.recipe import Recipe

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def describe_recipe(name: str, recipe: Recipe) -> dict[str, Any]:
    """One object of `kdx distill --list --json`."""
    return {
        "name": name,
        "about": recipe.about,
        "student": recipe.student,
        "teacher": recipe.teacher,
        "methods": list(recipe.objective.methods),
        "steps": recipe.steps,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "published": None if recipe.published is None else recipe.published.model_dump(exclude_none=True),
    }


def recipe_table(recipes: Mapping[str, Recipe]) -> str:
    """One line a recipe, and below the table what the methods are. The last column is not measured here."""
    rows = [("recipe", "student", "teacher", "distils with", "length", "published top-1")]
    for name, recipe in recipes.items():
        score = None if recipe.published is None else recipe.published.imagenet_top1
        rows.append(
            (
                name,
                recipe.student,
                " + ".join(recipe.teacher_names) or "–",
                " + ".join(recipe.objective.methods) or "–",
                f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs:g} epochs",
                "–" if score is None else f"{score:.2f}",
            )
        )
    return "\n\n".join((_columns(rows, right=(4, 5)), _legend(recipes.values())))


def _legend(recipes: Iterable[Recipe]) -> str:
    """What a student learns from the teacher with each method of these recipes."""
    from kdx.distill.objective_config import DISTILLING, ObjectiveConfig

    used = {method for recipe in recipes for method in recipe.objective.methods}
    fields = ObjectiveConfig.model_fields
    rows = [(name, fields[name].description or "") for name in DISTILLING if name in used]
    head = "What the student learns from the teacher, beside CLIP's own loss on the captions:"
    return "\n".join((head, _columns(rows), "CLIP-KD, the one to begin with, is crd + fd + icl."))


def scores_text(validation: Mapping[str, Any], run: Path) -> str:
    """Which student of a run scored best on the val split, in a line. validation: of its manifest."""
    best, last = validation["best"], validation["last"]
    if last and last["step"] == best["step"]:
        return f"the last student is the best one: {best['metric']} {100 * best['score']:.1f} %"
    than_last = f", of the last one {100 * last['score']:.1f} %" if last else ""
    scores = f"{best['metric']} {100 * best['score']:.1f} % after step {best['step']:,}{than_last}"
    return f"the best student is {run / 'best'}: {scores}"


def plan_lines(name: str, plan: Plan, recipe: Recipe) -> list[str]:
    """The plan in a few lines, each with its subject first."""
    return [
        f"plan of {name}",
        f"student    {_model(plan.student)}",
        *(f"teacher    {_model(teacher)}" for teacher in plan.teachers),
        *_length(plan),
        *_flops(plan),
        *_published(recipe),
        *_files(plan),
    ]


def _length(plan: Plan) -> list[str]:
    schedule = plan.schedule
    if schedule is None or plan.pairs_seen is None:
        return [f"steps      by the number of pairs, which --data tells: {plan.epochs:g} epochs"]
    return [
        f"steps      {schedule.steps:,} of {schedule.batch_size:,} pairs: {_si(plan.pairs_seen)} pairs{_epochs(plan)}",
        f"           the learning rate rises over the first {schedule.warmup_steps:,}",
    ]


def _flops(plan: Plan) -> list[str]:
    if plan.step_flops is None or plan.training_flops is None:
        return []
    if plan.text_length_from == "data":
        texts = "what this data's batches are cut to"
    else:
        texts = "the whole context; with --data as many as its batches have"
    lines = [
        f"compute    {_si(plan.step_flops, 'FLOP')} a step, {_si(plan.training_flops, 'FLOP')} in all",
        f"           texts of {plan.text_length} tokens: {texts}",
    ]
    if plan.cache_flops is None:
        lines.append("           teacher cache: not known without --data and a teacher")
    elif plan.cache_flops:
        lines.append(f"           teacher cache {_si(plan.cache_flops, 'FLOP')}, once")
    return lines


def _published(recipe: Recipe) -> list[str]:
    published = recipe.published
    if published is None or published.imagenet_top1 is None:
        return []
    teacher = published.teacher_imagenet_top1
    of_teacher = "" if teacher is None else f", teacher {teacher:.2f} % ({published.teacher_data})"
    return [f"published  ImageNet top-1 {published.imagenet_top1:.2f} %{of_teacher}; {published.source}"]


def _model(cost: ModelCost) -> str:
    params = (
        f"{_si(cost.image_params)} image + {_si(cost.text_params)} text = {_si(cost.total_params)} parameters"
    )
    return f"{cost.name}: {params}; forward {_si(cost.image_flops, 'FLOP')} + {_si(cost.text_flops, 'FLOP')}"


def _epochs(plan: Plan) -> str:
    if plan.epochs is None or plan.pairs is None:
        return ""
    whose = "here" if plan.pairs_from == "data" else "published"
    return f", {plan.epochs:.1f} epochs of {_si(plan.pairs)} pairs ({whose})"


def _files(plan: Plan) -> list[str]:
    lines: list[str] = []
    for file in plan.files:
        size = "" if file.bytes is None else f"  about {_si(file.bytes, 'B')}"
        kept = "  lies there and is used if it fits" if file.exists else ""
        lines.append(f"{'writes' if not lines else '':<9}  {file.path}{size}{kept}")
    return lines


def _si(number: float, unit: str = "") -> str:
    """Three digits, then prefix and unit: `46.1 M`, `18.1 TFLOP`, `32`."""
    power = 0
    while number >= 999.5 and power < len(PREFIXES) - 1:
        number /= 1000
        power += 1
    digits = max(0, 3 - len(str(int(number)))) if power else 0
    return f"{number:.{digits}f} {PREFIXES[power]}{unit}".rstrip()


def _columns(rows: list[tuple[str, ...]], right: Iterable[int] = ()) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = set(right)
    lines = (
        "  ".join(
            f"{cell:>{width}}" if index in numbers else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
