"""`kdx eval`: what models score on shards or on a data set by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from kdx.cli.eval_data import DataOptions, data_options, open_samples
from kdx.cli.output import print_json

if TYPE_CHECKING:
    from kdx.evaluate.sharing import Peers

TORCHRUN = "TORCHELASTIC_RUN_ID"  # what torchrun sets in each of its processes


@click.command(name="eval")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@data_options
@click.option(
    "--limit", type=click.IntRange(min=1), help="Take this many samples, evenly spread over the set."
)
@click.option(
    "--table",
    is_flag=True,
    help="Print a family's table: each MODEL a run or a checkpoint, seeds put together, beside published scores.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for comparison.json and .md of several models, family.json, .md and .html of --table; it is made. "
    "--table also keeps the scores there, and scores no run twice.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    models: tuple[str, ...],
    limit: int | None,
    table: bool,
    out: Path | None,
    as_json: bool,
    **data: Unpack[DataOptions],
) -> None:
    """Zero-shot accuracy and retrieval recall of MODEL, with 95 % intervals.

    MODEL is a checkpoint, a run, an exported model, or a Triton server at grpc://HOST:PORT. Of several, each is
    compared with the first on the same images: the difference of their scores with its interval, McNemar's exact test,
    and how often they name the same class.

    --table puts runs side by side as papers do, and draws accuracy over size and over latency.

    An interrupted run goes on where it stopped when it is started again. Under torchrun the processes share the images.

    A published set goes by its name: kdx eval exported --dataset imagenet-v2 --root imagenetv2

    Example: kdx eval student-run exported --data shards
    """
    import kdx
    from kdx.cli.progress import show_progress
    from kdx.core.progress import silent_stages
    from kdx.evaluate import evaluate_set

    from .eval_compare import show_comparison
    from .eval_table import show_family
    from .eval_text import evaluation_text

    model, *others = models
    if out and not others and not table:
        raise click.UsageError("--out is for several models; --json prints the score of one")
    samples = open_samples(**data)
    with _ranks() as ranks:
        if table:
            show_family(models, samples, limit, out, as_json, ranks)
            return
        if others:
            show_comparison(models, samples, limit, out, as_json, ranks)
            return
        show = silent_stages if ranks.rank else show_progress
        with kdx.load(model) as embedder, show("scoring") as progress:
            evaluation = evaluate_set(embedder, samples, limit=limit, progress=progress, peers=ranks)
    if ranks.rank:
        return
    if as_json:
        print_json(evaluation.to_dict())
    else:
        click.echo(evaluation_text(evaluation))


@contextlib.contextmanager
def _ranks() -> Generator[Peers]:
    """The processes that torchrun started this one with; this one alone without it, where torch is not needed."""
    from kdx.evaluate.sharing import Alone

    if TORCHRUN not in os.environ:
        yield Alone()
        return
    from kdx.distill.ranks import join_ranks

    with join_ranks() as ranks:
        yield ranks
