"""`kdx distill`: train a student from a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="distill")
@click.argument("recipe", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with train-*.tar shards.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the run is written.")
@click.option("--teacher", type=click.Path(path_type=Path), help="Checkpoint or run of the teacher.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Teacher cache; made if missing. Default: OUT with .cache added.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option("--overwrite", is_flag=True, help="Replace a run that lies at OUT.")
@click.option("--list", "list_", is_flag=True, help="List the shipped recipes.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    recipe: str | None,
    data: Path | None,
    out: Path | None,
    teacher: Path | None,
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

    Example: kdx distill demo-clip-kd --data shards --teacher teacher-run --out student-run
    """
    from kdx.distill.recipe import read_recipe, recipe_names

    if list_:
        about = {name: read_recipe(name).about for name in recipe_names()}
        click.echo(json.dumps(about, indent=2) if as_json else _columns(about))
        return
    if recipe is None:
        raise click.UsageError("RECIPE is missing; see the shipped ones with --list")
    resolved = read_recipe(recipe, settings)
    if dry_run:
        import tomli_w

        table = resolved.model_dump(mode="json", exclude_none=True)
        click.echo(json.dumps(table, indent=2) if as_json else tomli_w.dumps(table).rstrip())
        return
    if data is None or out is None:
        raise click.UsageError("--data and --out are needed to train")

    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_free
    from kdx.data.shards import open_split
    from kdx.distill.engine import open_teacher, train
    from kdx.models.checkpoint import RUN_KIND

    check_free(out, RUN_KIND, overwrite=overwrite)
    samples = open_split(data, "train")
    if cache is None:
        cache = out.with_name(out.name + ".cache")
    with show_progress("teacher cache") as progress:
        cached = open_teacher(resolved, samples, teacher, cache, progress=progress)
    with show_progress("training") as progress:
        result = train(
            resolved, samples, out, cached=cached, teacher=teacher, overwrite=overwrite, progress=progress
        )
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


def _columns(table: dict[str, str]) -> str:
    width = max(map(len, table))
    return "\n".join(f"{name:<{width}}  {about}" for name, about in table.items())
