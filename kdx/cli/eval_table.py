"""`kdx eval --table`: runs side by side, their seeds put together, beside what was published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import print_json
from .progress import show_progress

if TYPE_CHECKING:
    from kdx.data.image_set import ImageSet

TABLE = "family"  # .json, .md and .html in --out


def show_family(
    runs: Sequence[str], samples: ImageSet, limit: int | None, out: Path | None, as_json: bool
) -> None:
    from kdx.bench.family import compare_family, family_table
    from kdx.bench.family_page import render_family_page
    from kdx.core.errors import UsageError
    from kdx.core.folders import check_place, write_atomic

    for run in runs:
        if "://" in run:
            raise UsageError(
                "is a server: the table takes runs and checkpoints", where=run, remedy="give its run"
            )
    if out:
        check_place(out / f"{TABLE}.json")
    document = compare_family([Path(run) for run in runs], samples, limit=limit, stages=show_progress)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / f"{TABLE}.json", json.dumps(document, indent=2) + "\n")
        write_atomic(out / f"{TABLE}.md", family_table(document))
        write_atomic(out / f"{TABLE}.html", render_family_page(document))
    if as_json:
        print_json(document)
    else:
        click.echo(family_table(document))
        if out:
            click.echo(f"picture: {out / TABLE}.html", err=True)
