"""`kdx distill`: train a student from a recipe."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdx.core.progress import Progress, silent

from .distill_text import describe_recipe, plan_lines, recipe_table

if TYPE_CHECKING:
    from kdx.distill.ranks import Ranks
    from kdx.distill.recipe import Recipe


@click.command(name="distill")
@click.argument("recipe", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with train-*.tar shards.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the run is written.")
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Checkpoint or run of the teacher. Repeated: an ensemble.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Teacher cache; made if missing. Default: OUT with .cache added.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option("--overwrite", is_flag=True, help="Replace a run that lies at OUT.")
@click.option("--list", "list_", is_flag=True, help="List the shipped recipes as a table.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and what it costs; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    recipe: str | None,
    data: Path | None,
    out: Path | None,
    teachers: tuple[Path, ...],
    cache: Path | None,
    settings: tuple[str, ...],
    overwrite: bool,
    list_: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train the student of RECIPE (a shipped name or a TOML file) and seal the run at OUT.

    A recipe that distils or inherits weights takes a teacher; what distilling needs of it, its embeddings, is
    computed once and kept in a cache.

    --dry-run prints the resolved recipe, as a file that RECIPE may be, and below it as comments parameters, steps,
    FLOPs and what would be written. It needs neither data nor a teacher; what they tell, it tells if they are given.

    \b
    Example: kdx distill demo-clip-kd --data shards --teacher teacher-run --out student-run
    On 8 GPUs: torchrun --nproc-per-node 8 --no-python kdx distill RECIPE … (batch_size is that of all together)
    """
    from kdx.distill.recipe import read_recipe, recipe_names

    if list_:
        recipes = {name: read_recipe(name) for name in recipe_names()}
        described = [describe_recipe(name, each) for name, each in recipes.items()]
        click.echo(json.dumps(described, indent=2) if as_json else recipe_table(recipes))
        return
    if recipe is None:
        raise click.UsageError("RECIPE is missing; see the shipped ones with --list")
    resolved = read_recipe(recipe, settings)
    if dry_run:
        _show_plan(recipe, resolved, data, teachers, out, cache, as_json)
        return
    if data is None or out is None:
        raise click.UsageError("--data and --out are needed to train")

    from kdx.core.errors import UsageError
    from kdx.core.folders import check_free, check_place
    from kdx.data.shards import open_split
    from kdx.distill.engine import train
    from kdx.distill.ranks import join_ranks
    from kdx.distill.teachers import default_cache, open_teachers, unlike_expected
    from kdx.models.checkpoint import RUN_KIND

    with join_ranks() as ranks:
        check_free(out, RUN_KIND, overwrite=overwrite)
        samples = open_split(data, "train")
        if cache and not resolved.objective.needs_teacher:
            raise UsageError(
                "has no use: this recipe does not distil", where=cache, remedy="leave --cache out"
            )
        cache = cache or default_cache(out)
        if cache.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(cache.resolve()):
            raise UsageError(
                f"--cache and --out {out} must be two folders, none in the other",
                where=cache,
                remedy="choose another --cache",
            )
        check_place(cache)
        ranks.local_batch_size(resolved.batch_size)
        if ranks.is_first:
            for note in unlike_expected(resolved, teachers):
                click.echo(note, err=True)
        with ranks.first_ahead(), _progress(ranks, "teacher cache") as progress:
            caches = open_teachers(resolved, samples, teachers, cache, progress=progress)
        with _progress(ranks, "training") as progress:
            result = train(
                resolved,
                samples,
                out,
                caches=caches,
                teachers=teachers,
                overwrite=overwrite,
                ranks=ranks,
                progress=progress,
            )
    if not ranks.is_first:
        return
    if as_json:
        click.echo(
            json.dumps({**result.__dict__, "path": str(out), "student": str(result.student)}, indent=2)
        )
        return
    if result.cache_reused:
        click.echo(f"reused the teacher cache {cache}", err=True)
    if result.bad_images:
        click.echo(
            f"skipped {result.bad_images} images that do not decode: {out / 'skipped.jsonl'}", err=True
        )
    click.echo(out)
    click.echo(
        f"next: kdx eval {out} --data {data}   or   kdx export {out} --data {data} --out exported", err=True
    )


def _progress(ranks: Ranks, title: str) -> AbstractContextManager[Progress]:
    """Shown once, not by every process."""
    from kdx.cli.progress import show_progress

    return show_progress(title) if ranks.is_first else nullcontext(silent)


def _show_plan(
    name: str,
    recipe: Recipe,
    data: Path | None,
    teachers: tuple[Path, ...],
    out: Path | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    import tomli_w

    from kdx.data.shards import open_split
    from kdx.distill.plan import plan_run
    from kdx.distill.teachers import unlike_expected

    samples = None if data is None else open_split(data, "train")
    plan = plan_run(recipe, samples=samples, teachers=teachers, out=out, cache=cache)
    notes = unlike_expected(recipe, teachers)
    table = recipe.model_dump(mode="json", exclude_none=True)
    if as_json:
        click.echo(json.dumps({"recipe": table, "plan": plan.to_dict(), "notes": notes}, indent=2))
        return
    click.echo(tomli_w.dumps(table))
    for line in (*plan_lines(name, plan, recipe), *notes):
        click.echo(f"# {line}")
