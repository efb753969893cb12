"""`kdx eval --table`: runs side by side, their seeds put together, beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json, save_document
from .progress import show_progress

if TYPE_CHECKING:
    from kdx.data.image_set import ImageSet
    from kdx.evaluate.sharing import Peers

TABLE = "family"  # .json, .md and .html in --out
SCORES = "scores.json"  # there too


def show_family(
    runs: Sequence[str],
    samples: ImageSet,
    limit: int | None,
    out: Path | None,
    as_json: bool,
    peers: Peers,
) -> None:
    """Scores what `out` has no score of, and prints the table, in the first of `peers`.

    Raises UsageError for a server.
    """
    from kdx.bench.family import compare_family, family_table
    from kdx.bench.family_page import render_family_page
    from kdx.core.errors import UsageError
    from kdx.core.folders import check_place
    from kdx.core.progress import silent_stages

    for run in runs:
        if "://" in run:
            raise UsageError(
                "is a server: the table takes runs and checkpoints", where=run, remedy="give its run"
            )
    if out:
        check_place(out / f"{TABLE}.json")
    stages = silent_stages if peers.rank else show_progress
    paths = [Path(run) for run in runs]
    scores = out / SCORES if out else None
    document = compare_family(paths, samples, limit=limit, stages=stages, peers=peers, scores=scores)
    if document is None:
        return
    if as_json:
        print_json(document)
    else:
        click.echo(family_table(document))
    if out:  # after what may have taken hours is told: the disk may be full
        _tell_before(document, out)
        save_document(out / TABLE, document, md=family_table(document), html=render_family_page(document))
        click.echo(f"picture: {out / TABLE}.html", err=True)


def _tell_before(document: dict[str, Any], out: Path) -> None:
    runs = [run for row in document["rows"] for run in row["runs"]]
    if before := sum(run["scored_before"] for run in runs):
        click.echo(f"{before} of {len(runs)} scores are those of {out / SCORES}", err=True)
