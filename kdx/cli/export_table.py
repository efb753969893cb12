"""`kdx export --table` and `--budget`: several exported models side by side, and the one to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .output import print_json, save_document
from .progress import show_progress

TABLE = "exports"  # .json, .md and .html in --out


def show_table(
    models: Sequence[Path], data: Path, samples: int, budget: str | None, out: Path | None, as_json: bool
) -> None:
    """The table; with a budget the path of the model to take stands alone on stdout, for `kdx serve up $(…)`."""
    from kdx.bench.choice import Budget, check_met, choice_table, compare_exports
    from kdx.bench.choice_page import render_choice_page
    from kdx.core.folders import check_place

    asked = Budget.parse(budget) if budget else None
    if out:
        check_place(out / f"{TABLE}.json")
    document = compare_exports(models, data, budget=asked, limit=samples, stages=show_progress)
    if out:
        save_document(out / TABLE, document, md=choice_table(document), html=render_choice_page(document))
    if as_json:
        print_json(document)
    else:
        click.echo(choice_table(document), err=bool(asked))
        if out:
            click.echo(f"picture: {out / TABLE}.html", err=True)
    check_met(document)
    if asked and not as_json:
        click.echo(document["chosen"])
