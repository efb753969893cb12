"""`kdx bench data`: images a second of the training loader."""

from __future__ import annotations

from pathlib import Path

import click

from .output import tell_document


@click.command(name="data")
@click.argument("photos", type=click.Path(path_type=Path))
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(16, 20_000),
    multiple=True,
    default=(500, 1000),
    show_default=True,
    help="Longer side that the photos are made to have; may be given several times.",
)
@click.option("--images", type=click.IntRange(1, 100_000), default=256, show_default=True, help="In a turn.")
@click.option("--turns", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option(
    "--peer",
    type=click.Path(path_type=Path),
    help="Python of an environment with open_clip_torch[training], whose loader is then measured too.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    photos: Path,
    sizes: tuple[int, ...],
    images: int,
    turns: int,
    peer: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Images a second on one core from shards to batches: kdx's loader, exact and scaled, and open_clip's.

    PHOTOS is a folder of pictures. The programs take turns, each in a process of its own.

    Example: kdx bench data photos --peer open-clip-env/bin/python --out loading
    """
    from kdx.bench.loading import loading_table, measure_loading
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_place

    if out is not None:
        check_place(out)
    with show_progress("loading") as progress:
        document = measure_loading(
            photos, sizes=sizes, count=images, turns=turns, peer=peer, progress=progress
        )
    tell_document(document, loading_table(document), out, as_json)
