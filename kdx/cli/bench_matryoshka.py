"""`kdx bench matryoshka`: what the first dimensions of a student are worth."""

from __future__ import annotations

from typing import Any

import click

from .comparison_options import comparison_options
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
@click.option(
    "--dims", type=Dims(), required=True, help="As objective.dims, such as 8,16,32,64; the last is all."
)
@comparison_options("widths.json", of="student")
def command(dims: tuple[int, ...], as_json: bool, **comparison: Any) -> None:
    """Train RECIPE's student for several widths at once, for each alone, and as it is to be cut, and compare.

    An interrupted comparison goes on when the same command is given again.

    Example: kdx bench matryoshka demo-clip-kd --dims 8,16,32,64 --pairs few --data shards --teacher run --out widths
    """
    from kdx.bench.matryoshka import compare_widths, widths_table
    from kdx.cli.progress import show_progress

    with show_progress("runs") as progress:
        document = compare_widths(**comparison, dims=dims, progress=progress)
    tell_document(document, widths_table(document), None, as_json)
