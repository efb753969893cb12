"""`kdx distill`: train a student from a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdx.core.urls import shown

from .distill_text import describe_recipe, plan_lines, recipe_table, scores_text
from .output import print_json

if TYPE_CHECKING:
    from kdx.distill.recipe import Recipe


@click.command(name="distill")
@click.argument("given", metavar="[RECIPE]", nargs=-1)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with train-*.tar or 00000.tar shards, a pattern, several, or a URL (docs/data.md).",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where the run, or the page of --plot, is written."
)
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Checkpoint or run of the teacher. Repeated: an ensemble.",
)
@click.option(
    "--cache",
    "caches",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Teacher cache, a folder or URL; made if missing. Default: OUT with .cache added. Of an ensemble one for "
    "each teacher, in their order, or one place, to which .2 and so on are added.",
)
@click.option(
    "--teacher-online",
    is_flag=True,
    help="Ask the teacher at each step and keep no cache: for ever-new crops, at the teacher's cost.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option(
    "--track",
    "trackers",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb"]),
    help="Send the numbers to it too, as they come; repeatable.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that was stopped at OUT, if there is one.")
@click.option("--overwrite", is_flag=True, help="Replace a run that lies at OUT.")
@click.option("--list", "list_", is_flag=True, help="List the shipped recipes as a table.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and what it costs; train nothing.")
@click.option(
    "--plot", is_flag=True, help="Draw the curves of runs: kdx distill --plot RUN… --out curves.html"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    given: tuple[str, ...],
    data: Path | None,
    out: Path | None,
    teachers: tuple[Path, ...],
    caches: tuple[Path, ...],
    teacher_online: bool,
    settings: tuple[str, ...],
    trackers: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    list_: bool,
    dry_run: bool,
    plot: bool,
    as_json: bool,
) -> None:
    """Train the student of RECIPE, a shipped recipe by its name or a TOML file, and write the run to OUT.

    A recipe that distils takes a teacher. The teacher's embeddings of all images and captions are computed once and
    kept in a cache, which training then reads. A recipe may also let the student begin with a part of the teacher's
    weights.

    The state of a run is written every 1,000 steps, every ten minutes and when it is interrupted (Ctrl-C, SIGTERM); the
    same command with --resume goes on from the last one, whatever ended the run and on any number of processes.

    With --set validate_every=1000 the student is scored on the val split after every thousandth step and after the
    last; the best one is kept as OUT/best, a checkpoint. The student of the run stays the last one.

    --dry-run trains nothing. It prints the recipe with all that it extends, which is itself a file that RECIPE may
    be, and as comments below it what the run would cost: parameters, steps, FLOPs and files. It needs neither data nor
    a teacher, and is more exact if they are given.

    --plot draws what runs have logged, side by side, also while they train.

    \b
    Example: kdx distill demo-clip-kd --data shards --teacher teacher-run --out student-run
    On 8 GPUs: torchrun --nproc-per-node 8 --no-python kdx distill RECIPE … (batch_size is that of all together)
    """
    if plot:
        if (
            data
            or teachers
            or caches
            or teacher_online
            or settings
            or trackers
            or overwrite
            or list_
            or dry_run
        ):
            raise click.UsageError("--plot takes runs, --out and --json alone")
        _plot(given, out or Path("curves.html"), as_json)
        return
    from kdx.distill.recipe import read_recipe, recipe_names

    if list_:
        recipes = {name: read_recipe(name) for name in recipe_names()}
        described = [describe_recipe(name, each) for name, each in recipes.items()]
        if as_json:
            print_json(described)
        else:
            click.echo(recipe_table(recipes))
        return
    if len(given) != 1:
        raise click.UsageError(
            f"give one recipe, not {len(given)}"
            if given
            else "RECIPE is missing; see the shipped ones with --list"
        )
    (recipe,) = given
    resolved = read_recipe(recipe, settings)
    if dry_run:
        _show_plan(recipe, resolved, data, teachers, out, caches, teacher_online, as_json)
        return
    if data is None or out is None:
        raise click.UsageError("--data and --out are needed to train")

    from kdx.cli.progress import show_progress
    from kdx.data.places import splits_there
    from kdx.distill.ranks import join_ranks
    from kdx.distill.run import run_recipe
    from kdx.distill.teachers import default_cache

    with join_ranks() as ranks:
        with ranks.first_ahead():
            for note in _notes_on_export(resolved) if ranks.is_first else []:
                click.echo(note, err=True)
        result = run_recipe(
            resolved,
            data,
            out,
            teachers=teachers,
            cache=caches or None,
            teacher_online=teacher_online,
            trackers=trackers,
            resume=resume,
            overwrite=overwrite,
            ranks=ranks,
            stages=show_progress,
            tell=lambda note: click.echo(note, err=True),
        )
    if not ranks.is_first:
        return
    if as_json:
        print_json({**result.__dict__, "path": str(out), "student": str(result.student)})
        return
    if result.cache_reused:
        reused = " and ".join(map(shown, caches or (default_cache(out),)))
        click.echo(f"reused the teacher cache {reused}", err=True)
    if result.bad_images:
        click.echo(
            f"skipped {result.bad_images} images that do not decode: {out / 'skipped.jsonl'}", err=True
        )
    if result.validation and result.validation["best"]:
        click.echo(scores_text(result.validation, out), err=True)
    click.echo(out)
    held_out = f"--data {shlex.quote(shown(data))}" if "val" in splits_there(data) else "--data HELD-OUT"
    click.echo(f"next: kdx eval {out} {held_out}   or   kdx export {out} {held_out} --out exported", err=True)


def _plot(runs: tuple[str, ...], out: Path, as_json: bool) -> None:
    from kdx.bench.curves import read_runs, render_curves
    from kdx.core.folders import check_place, write_atomic

    if not runs:
        raise click.UsageError("which runs? kdx distill --plot RUN…")
    check_place(out)
    read = read_runs([Path(run) for run in runs])
    write_atomic(out, render_curves(read))
    if as_json:
        print_json({run.name: {name: curve[-1][1] for name, curve in run.curves.items()} for run in read})
    else:
        click.echo(out)


def _notes_on_export(recipe: Recipe) -> list[str]:
    """A sentence if the student could be trained and not exported. Not refused: it may be wanted for itself."""
    from kdx.core.errors import UsageError
    from kdx.export import check_exports

    try:
        check_exports(recipe.architecture)
    except UsageError as error:
        return [f"note: kdx export will not take this student: {error.what}; {error.remedy}"]
    return []


def _show_plan(
    name: str,
    recipe: Recipe,
    data: Path | None,
    teachers: tuple[Path, ...],
    out: Path | None,
    caches: tuple[Path, ...],
    teacher_online: bool,
    as_json: bool,
) -> None:
    import tomli_w

    from kdx.data.shards import open_split
    from kdx.distill.plan import plan_run
    from kdx.distill.teachers import unlike_expected

    samples = None if data is None else open_split(data, "train")
    plan = plan_run(
        recipe,
        samples=samples,
        teachers=teachers,
        out=out,
        cache=caches or None,
        teacher_online=teacher_online,
    )
    notes = [*unlike_expected(recipe, teachers), *_notes_on_export(recipe)]
    if not teachers:
        notes += [f"a teacher is fetched by: {command}" for command in recipe.teacher_imports.values()]
    if samples is not None:
        recipe, _ = recipe.resolve(samples)
    table = recipe.model_dump(mode="json", exclude_none=True)
    if as_json:
        print_json({"recipe": table, "plan": plan.to_dict(), "notes": notes})
        return
    click.echo(tomli_w.dumps(table))
    for line in (*plan_lines(name, plan, recipe), *notes):
        click.echo(f"# {line}")
