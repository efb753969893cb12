"""`kdx data convert`: images in the layouts that sets come in, into shards."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdx.core.spelling import count_of

if TYPE_CHECKING:
    from kdx.data.convert import Converted


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…", type=click.Path(path_type=Path))
@click.option(
    "--captions",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A table (CSV, TSV) or COCO's or Karpathy's JSON: images of SOURCE, with captions or classes.",
)
@click.option(
    "--val",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the images to hold out, such as 0.2; the same ones when images are added.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder in which the shards will lie."
)
@click.option("--image-column", help="Column that names the images, where it has no usual name.")
@click.option("--caption-column", help="Column that holds the captions.")
@click.option("--label-column", help="Column that holds the classes.")
@click.option("--overwrite", is_flag=True, help="Replace a set that lies there.")
def command(
    sources: tuple[Path, ...],
    captions: tuple[Path, ...],
    val: float | None,
    out: Path,
    image_column: str | None,
    caption_column: str | None,
    label_column: str | None,
    overwrite: bool,
) -> None:
    """Pack the images of SOURCE with their captions or classes into shards.

    SOURCE is a folder of images with a .txt beside each, a folder with a folder for each class, Parquet or Arrow of
    Hugging Face's datasets, shards (such as img2dataset's), or with --captions the folder (or several) from which the
    paths in the table or JSON start. Several tables belong to as many folders, in the same order.

    Images are copied as they are; what shards cannot hold (BMP, GIF, TIFF) becomes PNG. What cannot be used is left
    out and named, up to a tenth. After a kill the same command goes on where it was.

    Example: kdx data convert photos --captions captions.csv --val 0.2 --out shards
    """
    from kdx.cli.progress import show_progress
    from kdx.data.convert import convert
    from kdx.data.sources.columns import Wanted
    from kdx.data.sources.opening import open_source

    source = open_source(list(sources), list(captions), Wanted(image_column, caption_column, label_column))
    with show_progress("packing") as progress:
        result = convert(source, out, val=val, overwrite=overwrite, progress=progress)
    click.echo(out)
    click.echo("\n".join(_lines(result, out)), err=True)


def _lines(result: Converted, out: Path) -> list[str]:
    lines = [
        f"{split}: {count_of(samples, 'image')}, {count_of(captions, 'caption')}"
        for split, (samples, captions) in result.splits.items()
    ]
    if result.resumed_shards:
        lines.append(f"{result.resumed_shards} finished shards of an interrupted run were taken as they are")
    if result.classes is not None:
        lines.append(f"classes: {len(result.classes)}")
    for count, what, some in (
        (result.num_left_out, "left out", result.left_out),
        (result.num_notes, "noted", result.notes),
    ):
        if count:
            lines.append(f"{count} {what}; all are named in {out / 'skipped.jsonl'}")
            lines += [f"  {image}: {reason}" for image, reason in some] + (
                ["  …"] if count > len(some) else []
            )
    if "val" not in result.splits and "test" not in result.splits:
        lines.append("nothing is held out: scores and the parity gate need --val, such as --val 0.2")
    finds = "   (it finds held-out images that are in train too)" if len(result.splits) > 1 else ""
    return [*lines, f"next: kdx data info {shlex.quote(str(out))}{finds}"]
