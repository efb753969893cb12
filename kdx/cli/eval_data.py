"""What `kdx eval` scores on: the options that name it, and opening it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import click

if TYPE_CHECKING:
    from kdx.data.image_set import ImageSet

Command = TypeVar("Command", bound=Callable[..., Any])


class DataOptions(TypedDict):
    """What `data_options` passes on."""

    data: Path | None
    split: str | None
    dataset: str | None
    root: Path | None
    classes: Path | None
    templates: Path | None


_PATH = click.Path(path_type=Path)


def data_options(command: Command) -> Command:
    """--data and --split, or --dataset and --root with --classes and --templates; --list. All default to None."""
    options = [
        click.option("--data", type=_PATH, help="Folder with shards, or a pattern."),
        click.option("--split", help="Which of the shards: val (the default), test or train."),
        click.option(
            "--dataset", metavar="NAME", help="A published data set by its name; --list shows them."
        ),
        click.option("--root", type=_PATH, help="Where the data set lies, as it was published."),
        click.option(
            "--classes",
            type=_PATH,
            help="File with class names instead of the set's, one a line in label order.",
        ),
        click.option(
            "--templates",
            type=_PATH,
            help="File with prompts instead of the set's, one a line with {} in it.",
        ),
        click.option(
            "--list",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_sets,
            help="List the data sets.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def open_samples(**options: Unpack[DataOptions]) -> ImageSet:
    """The shards or the data set that the options name."""
    data, split, dataset, root = options["data"], options["split"], options["dataset"], options["root"]
    classes, templates = options["classes"], options["templates"]
    if (data is None) == (dataset is None):
        raise click.UsageError("give either --data SHARDS, or --dataset NAME with --root DIR")
    if data is not None:
        from kdx.cli.progress import show_progress
        from kdx.data.shards import open_split

        if root or classes or templates:
            raise click.UsageError(
                "--root, --classes and --templates go with --dataset; shards bring their own"
            )
        return open_split(data, split or "val", need_captions=False, stages=show_progress)
    from kdx.data.named import find_set, open_named

    assert dataset is not None
    find_set(dataset)
    if split is not None:
        raise click.UsageError(
            "--split goes with --data; a data set has the split that its scores are published on"
        )
    if root is None:
        raise click.UsageError(f"--root is missing: the folder in which {dataset} lies")
    return open_named(dataset, root, classes=classes, templates=templates)


def _show_sets(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from kdx.data.named import known_sets

    sets = known_sets()
    width = max(map(len, sets))
    for name, record in sets.items():
        click.echo(f"{name:{width}}  {record.about}")
    context.exit()
