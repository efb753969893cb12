"""`kdx cache`: teacher caches before and beside training."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdx.core.urls import shown

from .output import print_json

if TYPE_CHECKING:
    from kdx.distill.recipe import Precision
    from kdx.distill.teacher_cache import Storage

SHOWN = 5  # files that an error names


@click.group(name="cache")
def command() -> None:
    """Make and inspect teacher caches: a teacher's embeddings of a training set, from which students learn.

    `kdx distill` makes what it needs itself. A cache of millions of pairs is better made before, by all GPUs at hand.

    Example: kdx cache build small-clip-kd --data shards --teacher teacher-run --out teacher.cache
    """


@command.command()
@click.argument("recipe")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder with train-*.tar shards."
)
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Checkpoint or run of the teacher. Repeated: one cache each, the second at OUT with .2 added.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder or URL of the cache.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option(
    "--storage",
    type=click.Choice(["fp16", "fp32", "int8"]),
    help="How embeddings are stored. Default: as in a cache that is begun, else fp16.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    help="The teacher's arithmetic. Default: bf16 on a GPU that computes in it, else fp32.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def build(
    recipe: str,
    data: Path,
    teachers: tuple[Path, ...],
    out: Path,
    settings: tuple[str, ...],
    storage: Storage | None,
    precision: Precision | None,
    as_json: bool,
) -> None:
    """Embed the training pairs in DATA with the teacher and keep that in OUT.

    RECIPE, a shipped recipe or a TOML file, says which views of each image there are. One cache serves every recipe
    with the same [views], every student and every method. It is made shard by shard: after an interruption the same
    command goes on with the shards that are missing, and any number of these commands at once, on one machine or on
    several with a shared disk, divide them.

    \b
    Example: kdx cache build small-clip-kd --data shards --teacher teacher-run --out teacher.cache
    On 8 GPUs: torchrun --nproc-per-node 8 --no-python kdx cache build RECIPE …
    """
    from kdx.cli.progress import show_progress
    from kdx.core.progress import silent_stages
    from kdx.data.shards import open_split
    from kdx.distill.ranks import join_ranks
    from kdx.distill.recipe import read_recipe
    from kdx.distill.teacher_cache.description import describe_cache
    from kdx.distill.teachers import cache_folders, open_teachers

    resolved = read_recipe(recipe, settings)
    with join_ranks() as ranks:
        stages = show_progress if ranks.is_first else silent_stages
        with ranks.first_ahead():
            samples = open_split(data, "train", stages=stages)
        samples.fetch(stages, (ranks.rank, ranks.size))
        with stages("teacher cache") as progress:
            open_teachers(
                resolved,
                samples,
                teachers,
                out,
                storage=storage,
                precision=precision,
                ranks=ranks,
                progress=progress,
            )
        ranks.wait()
    if not ranks.is_first:
        return
    if as_json:
        print_json([describe_cache(folder) for folder in cache_folders(out, len(teachers))])
        return
    click.echo(shown(out))
    given = f"--data {shlex.quote(shown(data))} --cache {shlex.quote(shown(out))} --teacher {teachers[0]}"
    click.echo(f"next: kdx distill {recipe} {given} --out RUN", err=True)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(folder: Path, as_json: bool) -> None:
    """Say what the cache FOLDER is of: teacher, data, views, storage, size, and how many shards are done.

    Example: kdx cache info teacher.cache
    """
    from kdx.distill.teacher_cache.description import describe_cache

    facts = describe_cache(folder)
    if as_json:
        print_json(facts)
        return
    click.echo("\n".join(_lines(facts)))


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
def verify(folder: Path) -> None:
    """Read all finished files of the cache FOLDER and compare them with their digests.

    Training does not: it compares the keys alone, and the digests of caches up to 256 MiB. Exit 4 if a file has
    changed or is missing.

    Example: kdx cache verify teacher.cache
    """
    from kdx.cli.progress import show_progress
    from kdx.core.errors import DataError
    from kdx.distill.teacher_cache.description import verify_cache

    with show_progress("reading") as progress:
        verified = verify_cache(folder, progress=progress)
    kinds = (("changed", verified.changed), ("missing", verified.missing))
    said = "; ".join(f"{what}: {', '.join(names[:SHOWN])}" for what, names in kinds if names)
    if said:
        raise DataError(
            said, where=folder, remedy="copy these again, or remove the cache, so that it is made anew"
        )
    click.echo(f"{shown(folder)}: {len(verified.same)} files are as they were written")


def _lines(facts: Mapping[str, Any]) -> list[str]:
    done = (
        "whole" if facts["whole"] else f"in work: {facts['shards_done']} of {facts['shards']} shards are done"
    )
    teacher, data = facts["teacher"], facts["data"]
    return [
        f"{facts['folder']}: {done}",
        f"teacher: {teacher['name']}, {teacher['path']}, {teacher['digest'][:12]}",
        f"data: {data['pairs']:,} pairs of {data['path']}, {data['digest'][:12]}",
        f"views: {facts['views']}; captions: {facts['captions']:,}; images that do not decode: {facts['bad_images']:,}",
        f"stored: {facts['shards_done']} shards, {facts['bytes'] / 1e6:,.1f} MB, {facts['storage']}"
        f"{'; computed in ' + facts['precision'] if facts.get('precision') else ''}; {facts['seconds']:,.1f} s of work",
        f"fingerprint: {facts['fingerprint'][:12]}",
    ]
