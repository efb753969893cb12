"""`kdx bench matryoshka`: what the first dimensions of a student are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .output import tell_document


class Dims(click.ParamType):
    """Whole numbers with commas between them."""

    name = "dims"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            return tuple(int(each) for each in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not whole numbers with commas between them", param, ctx)


@click.command(name="matryoshka")
@click.argument("recipe")
@click.option(
    "--dims", type=Dims(), required=True, help="As objective.dims, such as 8,16,32,64; the last is all."
)
@click.option("--pairs", type=click.Path(path_type=Path), required=True, help="Shards to train on.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Shards whose val split is evaluated."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), required=True, help="Checkpoint or run of the teacher."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where runs and widths.json go.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Runs of each student."
)
@click.option("--jobs", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs at a time.")
@click.option("--limit", type=click.IntRange(min=1), help="Evaluate at most this many images.")
@click.option("--overwrite", is_flag=True, help="Replace a comparison that lies at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    recipe: str,
    dims: tuple[int, ...],
    pairs: Path,
    data: Path,
    teacher: Path,
    out: Path,
    settings: tuple[str, ...],
    seeds: int,
    jobs: int,
    limit: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train RECIPE's student for several widths at once, for each alone, and as it is to be cut, and compare.

    An interrupted comparison goes on when the same command is given again.

    Example: kdx bench matryoshka demo-clip-kd --dims 8,16,32,64 --pairs few --data shards --teacher run --out widths
    """
    from kdx.bench.matryoshka import compare_widths, widths_table
    from kdx.cli.progress import show_progress

    with show_progress("runs") as progress:
        document = compare_widths(
            recipe,
            dims,
            pairs,
            data,
            teacher,
            out,
            settings=settings,
            seeds=seeds,
            jobs=jobs,
            limit=limit,
            overwrite=overwrite,
            progress=progress,
        )
    tell_document(document, widths_table(document), None, as_json)
