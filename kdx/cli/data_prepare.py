"""`kdx data prepare`: the images of a list of URLs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from .output import print_json

REASONS_SHOWN = 6


@click.command()
@click.argument("list_", metavar="LIST", type=click.Path(path_type=Path))
@click.argument("more", metavar="[-- OPTIONS OF IMG2DATASET]", nargs=-1, type=click.UNPROCESSED)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder of the shards.")
@click.option(
    "--image-size",
    type=click.IntRange(16, 4096),
    default=288,
    show_default=True,
    help="Pixels of the shorter side; smaller images stay as they are.",
)
@click.option("--processes", type=click.IntRange(1), help="Processes that download.  [default: a core each]")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Downloads at once in each process.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=2, show_default=True, help="Further tries of each image."
)
@click.option("--url-column", help="Name or number (from 1) of the column of URLs, if it is not found.")
@click.option(
    "--caption-column", help="Name or number (from 1) of the column of captions, if it is not found."
)
@click.option(
    "--distributor",
    type=click.Choice(["multiprocessing", "pyspark", "ray"]),
    default="multiprocessing",
    show_default=True,
    help="What spreads the work: this machine's processes, or a cluster's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    list_: Path,
    more: tuple[str, ...],
    out: Path,
    image_size: int,
    processes: int | None,
    threads: int,
    retries: int,
    url_column: str | None,
    caption_column: str | None,
    distributor: str,
    as_json: bool,
) -> None:
    """Download the images that LIST names into tar shards, with their captions.

    LIST is Google's file of CC3M or CC12M as it comes, or any table with a column of URLs: between TABs, CSV, Parquet
    or a folder of Parquet files; or a URL a line. img2dataset does it, in an environment that the first call makes
    (about 700 MB). After an interruption the same command goes on.

    Example: kdx data prepare Train_GCC-training.tsv --out cc3m -- --timeout 20
    """
    from kdx.cli.progress import show_progress
    from kdx.data.prepare import Settings, prepare

    settings = Settings(
        image_size=image_size,
        processes=processes or os.cpu_count() or 1,
        threads=threads,
        retries=retries,
        distributor=distributor,
        url_column=url_column,
        caption_column=caption_column,
        typed=_read_options(more),
    )
    prepared = prepare(list_, out, settings, stages=show_progress)
    if as_json:
        print_json(prepared.to_dict())
        return
    click.echo(out)
    share = prepared.got / prepared.rows
    click.echo(
        f"{prepared.got} of {prepared.rows} images ({share:.1%}) in {prepared.shards} shards, "
        f"{prepared.bytes / 1e6:.1f} MB, {prepared.seconds:.0f} s",
        err=True,
    )
    if prepared.failed:
        reasons = list(prepared.failed.items())
        shown = ", ".join(f"{times} × {reason}" for reason, times in reasons[:REASONS_SHOWN])
        click.echo(f"failed: {shown}" + (", …" if len(reasons) > REASONS_SHOWN else ""), err=True)
    if prepared.left_out:
        what = "without a URL or a caption" if prepared.captions else "without a URL"
        click.echo(
            f"left out: {prepared.left_out} rows {what}, the first at {prepared.first_left_out}", err=True
        )
    if not prepared.captions:
        click.echo("the list has no captions, so the samples have none", err=True)
    click.echo(f"next: kdx data info {shlex.quote(str(out))}", err=True)


def _read_options(words: tuple[str, ...]) -> dict[str, str]:
    """--name=value, --name value, or --name alone for yes."""
    options: dict[str, str] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            name = name.replace("-", "_")
            options[name] = value if given else "True"
        elif name is not None and options[name] == "True":
            options[name] = word
        else:
            raise click.UsageError(
                f"{word!r} is no option of img2dataset: after -- stand --name value or --name=value"
            )
    return options
