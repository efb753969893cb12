"""`kdx data`: make, cut and inspect image–text shards."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from kdx.core.urls import shown

from .data_convert import command as convert
from .data_info import command as info
from .data_prepare import command as prepare

SHOWN = 5  # files that an error names

_out = click.argument("out", type=click.Path(path_type=Path))
_seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Decides all that is random.",
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a set that lies at OUT.")


@click.group(name="data")
def command() -> None:
    """Make and inspect image–text sets in WebDataset tar shards.

    Example: kdx data convert photos --captions captions.csv --val 0.2 --out shards
    """


command.add_command(convert, "convert")
command.add_command(info, "info")
command.add_command(prepare, "prepare")


@command.command()
@_out
@click.option(
    "--train", type=click.IntRange(1), default=20000, show_default=True, help="Number of training samples."
)
@click.option(
    "--val", type=click.IntRange(0), default=2000, show_default=True, help="Number of held-out samples."
)
@click.option(
    "--image-size",
    type=click.IntRange(16, 1024),
    default=64,
    show_default=True,
    help="Side of an image in pixels.",
)
@_seed
@_overwrite
def synthetic(out: Path, train: int, val: int, image_size: int, seed: int, overwrite: bool) -> None:
    """Draw a set of shapes with captions into the folder OUT; needs no download.

    Each image has a main shape of one colour and shape out of 60 ("purple star"); captions are partial, as on the web.

    Example: kdx data synthetic shapes --train 20000 --val 2000
    """
    from kdx.cli.progress import show_progress
    from kdx.data.synthetic import write_synthetic

    with show_progress("drawing") as progress:
        write_synthetic(
            out,
            num_train=train,
            num_val=val,
            seed=seed,
            image_size=image_size,
            progress=progress,
            overwrite=overwrite,
        )
    click.echo(out)
    click.echo(f"next: kdx data info {shlex.quote(str(out))}   or   kdx distill --list", err=True)


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@_out
@click.option("--pairs", type=click.IntRange(1), required=True, help="Number of samples to take.")
@click.option(
    "--wrong-captions",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of samples that get another sample's caption.",
)
@_seed
@_overwrite
def subset(source: Path, out: Path, pairs: int, wrong_captions: float, seed: int, overwrite: bool) -> None:
    """Take PAIRS training samples of SOURCE, exchange a share of their captions, and write them to OUT.

    With the same seed a smaller subset is the beginning of a bigger one.

    Example: kdx data subset shapes few --pairs 4000 --wrong-captions 0.3
    """
    from kdx.data.set_folder import check_set_free
    from kdx.data.shards import open_split
    from kdx.data.subset import write_subset

    check_set_free(out, overwrite=overwrite)
    wrong = write_subset(
        open_split(source, "train"),
        out,
        pairs=pairs,
        wrong_captions=wrong_captions,
        seed=seed,
        overwrite=overwrite,
    )
    click.echo(out)
    click.echo(f"{pairs} samples, {wrong} of them with another sample's caption", err=True)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--index-dir",
    type=click.Path(path_type=Path),
    envvar="KDX_INDEX_DIR",
    help="Where the index is written instead of beside the shards. KDX_INDEX_DIR names it for all commands.",
)
def index(folder: Path, index_dir: Path | None) -> None:
    """Write down what lies in the shards of FOLDER, so that every later start takes no time.

    Other commands do so too where they find no index. A shard that changes is indexed anew when it is used next. Where
    nothing can be written beside the shards, as at a URL, the index goes to --index-dir, or else to the cache folder
    (KDX_CACHE).

    Example: kdx data index cc12m
    """
    from kdx.cli.progress import show_progress
    from kdx.data.index.opening import open_indexes
    from kdx.data.shards import find_shards

    started = time.monotonic()
    opened = open_indexes(find_shards(folder), folder=index_dir, stages=show_progress)
    facts = [each.facts for each in opened]
    samples, captions = sum(each.samples for each in facts), sum(each.captions for each in facts)
    size = sum(each.place.stat().st_size for each in opened)
    for place in sorted({each.place.parent for each in opened}):
        click.echo(place)
    click.echo(
        f"{samples:,} samples with {captions:,} captions in {len(opened):,} shards "
        f"({sum(each.size for each in facts) / 1e9:.2f} GB); index {size / 1e6:.1f} MB, "
        f"{size / max(1, samples):.0f} bytes a sample; {time.monotonic() - started:.1f} s",
        err=True,
    )


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
def verify(folder: Path) -> None:
    """Compare the shards of FOLDER with the digests in its SHA256SUMS and in its index.

    `kdx data convert` writes SHA256SUMS, and `sha256sum -c SHA256SUMS` reads it too; the index has the digests of when
    it was made. Exit 4 if a shard changed, is missing or is not named there, or if an index is damaged.

    Example: kdx data verify shards
    """
    from kdx.cli.progress import show_progress
    from kdx.core.errors import DataError
    from kdx.data.checksums import verify_set

    with show_progress("reading") as progress:
        verified = verify_set(folder, progress=progress)
    if not verified.whole:
        kinds = (
            ("changed", verified.changed),
            ("missing", verified.missing),
            ("not in SHA256SUMS", verified.unnamed),
            ("damaged index, to be removed", verified.damaged),
        )
        said = "; ".join(f"{what}: {', '.join(names[:SHOWN])}" for what, names in kinds if names)
        raise DataError(said, where=folder, remedy="copy these again, or convert the set again")
    click.echo(f"{shown(folder)}: {len(verified.same)} files are as they were written")
