"""`kdx bench methods`: a student alone and with every distillation method."""

from __future__ import annotations

from typing import Any

import click

from .comparison_options import comparison_options
from .output import tell_document


@click.command(name="methods")
@click.option("--method", "only", multiple=True, help="Compare only this one with the baseline; repeatable.")
@comparison_options("methods.json", of="method")
def command(only: tuple[str, ...], as_json: bool, **comparison: Any) -> None:
    """Train RECIPE's student alone and with every distillation method, and compare.

    RECIPE is a baseline, a recipe without a distilling term. Methods have the published weights.

    Example: kdx bench methods demo-baseline --pairs few --data shards --teacher teacher-run --out compared
    """
    from kdx.bench.methods import compare_methods, methods_table
    from kdx.cli.progress import show_progress

    with show_progress("runs") as progress:
        document = compare_methods(**comparison, only=only, progress=progress)
    tell_document(document, methods_table(document), None, as_json)
