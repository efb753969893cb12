"""The options of commands that train several students on the same pairs and compare them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def comparison_options(document: str, of: str) -> Callable[[Command], Command]:
    """A decorator. document: the file beside the runs. of: what there are several seeds of."""
    options = (
        click.argument("recipe"),
        click.option("--pairs", type=click.Path(path_type=Path), required=True, help="Shards to train on."),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            required=True,
            help="Shards whose val split is evaluated.",
        ),
        click.option(
            "--teacher",
            type=click.Path(path_type=Path),
            required=True,
            help="Checkpoint or run of the teacher.",
        ),
        click.option(
            "--out", type=click.Path(path_type=Path), required=True, help=f"Where runs and {document} go."
        ),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
        ),
        click.option(
            "--seeds",
            type=click.IntRange(1, 1000),
            default=3,
            show_default=True,
            help=f"Runs of each {of}.",
        ),
        click.option(
            "--jobs", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs at a time."
        ),
        click.option("--limit", type=click.IntRange(min=1), help="Evaluate at most this many images."),
        click.option("--overwrite", is_flag=True, help="Replace a comparison that lies at OUT."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
