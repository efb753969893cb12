"""`kdx data info`: what is in a set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from .output import print_json

SHOWN = 5


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--decode", is_flag=True, help="Decode every image, and name those that do not.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="Write an HTML page with images of each split and their captions.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, with all that is skipped or broken."
)
def command(folder: Path, decode: bool, sheet: Path | None, as_json: bool) -> None:
    """Say what is in the set FOLDER: samples, captions, classes, sizes, duplicates, and what cannot be used.

    Every image is read once; damage behind the first bytes of one is found with --decode.

    Example: kdx data info shapes --sheet shapes.html
    """
    from kdx.cli.progress import show_progress
    from kdx.data.describe import describe_set, open_splits
    from kdx.data.image_report import describe_images
    from kdx.data.sheet import check_sheet, write_sheet

    if sheet is not None:
        check_sheet(sheet)
    splits = open_splits(folder, stages=show_progress)
    description = describe_set(folder, splits)
    with show_progress("decoding" if decode else "reading") as progress:
        description["images"] = describe_images(splits, decode=decode, progress=progress)
    if sheet is not None:
        write_sheet(folder, splits, sheet)
    if as_json:
        print_json(description)
        return
    for name, split in description["splits"].items():
        click.echo("\n".join(_split_lines(name, split)))
    if compressed := description["compressed"]:
        more = f" and {len(compressed) - 1} more" if len(compressed) > 1 else ""
        click.echo(
            f"not read, since compressed: {compressed[0]}{more}; unpack to .tar what belongs to the set"
        )
    click.echo("\n".join(_image_lines(description["images"])))
    classes = description["classes"]
    click.echo(
        f"classes: {len(classes)} ({', '.join(classes[:6])}{', …' if len(classes) > 6 else ''})"
        if classes
        else "classes: not named"
    )
    if sheet is not None:
        click.echo(f"sheet: {sheet}")


def _image_lines(images: dict[str, Any]) -> list[str]:
    formats = ", ".join(f"{count} {name}" for name, count in images["formats"].items())
    lines = [f"images: {formats}; {_size(images['bytes'])}"]
    if images["shorter_side"] is not None:
        shorter, longer = (_range(images[side], "px") for side in ("shorter_side", "longer_side"))
        lines.append(f"  shorter side {shorter}; longer side {longer}")
    if images["duplicates"]:
        both = images["held_out_duplicates"]
        lines.append(
            f"  {images['duplicates']} duplicates of another image"
            + (f"; {both} held-out images are in train too" if both else "")
        )
        lines += [f"    {' = '.join(group[:SHOWN])}" for group in images["duplicate_groups"][:SHOWN]]
    broken = images["broken"]
    if broken:
        lines.append(f"  {len(broken)} broken:")
        lines += [f"    {image['key']}: {image['reason']}" for image in broken[:SHOWN]]
    return lines


def _range(values: dict[str, int], unit: str) -> str:
    low, median, high = values["min"], values["median"], values["max"]
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit} (median {median})"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _split_lines(name: str, split: dict[str, Any]) -> list[str]:
    words = "" if split["caption_words"] is None else f"; {_range(split['caption_words'], 'words')}"
    if tokens := split["caption_tokens"]:
        full = f", {tokens['full']} at or over {tokens['max']}" if tokens["full"] else ""
        words += f"; {_range(tokens, 'CLIP tokens')}{full}"
    lines = [
        f"{name}: {split['samples']} samples in {split['shards']} shards, {split['labelled']} labelled",
        f"  {split['captions']} captions, {split['distinct_captions']} distinct{words}",
    ]
    skipped = split["skipped"]
    if skipped:
        reasons = Counter(sample["reason"] for sample in skipped).most_common(SHOWN)
        lines.append(
            f"  {len(skipped)} skipped: " + "; ".join(f"{count} × {reason}" for reason, count in reasons)
        )
        lines += [f"    {sample['key']}: {sample['reason']}" for sample in skipped[:SHOWN]]
    if split["others"]:
        kinds = "; ".join(f"{count} × {kind}" for kind, count in list(split["others"].items())[:SHOWN])
        lines.append(f"  not samples: {kinds}" + ("; …" if len(split["others"]) > SHOWN else ""))
    return lines
