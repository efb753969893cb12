"""`kdx query`: ask a model, served or local, for embeddings, classes and images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdx.cli.output import print_json

if TYPE_CHECKING:
    from kdx.core.encoder import FloatArray
    from kdx.core.preprocess import ImageSource

SHOWN = 4  # first numbers of an embedding
REFUSED_SHOWN = 5


class _Utf8(click.ParamType):
    """Text. Python hides bytes of the command line that are not UTF-8 in lone surrogates."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return value


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _outside_products(ctx: click.Context, parameter: click.Parameter, out: Path | None) -> Path | None:
    """A file added to a sealed folder would spoil it."""
    if out:
        from kdx.core.folders import check_place

        check_place(out)
    return out


_out = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_outside_products,
    help="Save the embeddings as a .npy file.",
)


_dimensions = click.option(
    "--dimensions", type=int, help="The first so many alone, of a model that was trained for it (kdx info)."
)


@click.group(name="query")
def command() -> None:
    """Ask MODEL: a Triton server at grpc://HOST:PORT, an exported model, a checkpoint or a run.

    Example: kdx query text grpc://localhost:8001 "a photo of a dog."
    """


@command.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...", type=_Utf8())
@_dimensions
@_out
@_json
def text(model: str, texts: tuple[str, ...], dimensions: int | None, out: Path | None, as_json: bool) -> None:
    """Embed TEXTs.

    Example: kdx query text grpc://localhost:8001 "a dog" "two cats" --out texts.npy
    """
    import kdx

    with kdx.load(model) as embedder:
        _show(list(texts), embedder.embed_texts(texts, dimensions=dimensions), out, as_json)


@command.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_dimensions
@_out
@_json
def image(
    model: str, images: tuple[str, ...], dimensions: int | None, out: Path | None, as_json: bool
) -> None:
    """Embed IMAGE files.

    Example: kdx query image grpc://localhost:8001 photo.jpg
    """
    import kdx

    with kdx.load(model) as embedder:
        _show(list(images), embedder.embed_images(images, dimensions=dimensions), out, as_json)


@command.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--label", "labels", multiple=True, type=_Utf8(), help="A class; may be given several times.")
@click.option(
    "--labels-from",
    type=click.Path(path_type=Path),
    help="File with one class a line, such as a set's classes.txt.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    type=_Utf8(),
    help='Prompt with {} for the class.  [default: "a photo of a {}."]',
)
@click.option(
    "--top", "top_k", type=click.IntRange(1), default=5, show_default=True, help="Classes an image."
)
@_json
def classify(
    model: str,
    images: tuple[str, ...],
    labels: tuple[str, ...],
    labels_from: Path | None,
    templates: tuple[str, ...],
    top_k: int,
    as_json: bool,
) -> None:
    """Say which of the labels fits each IMAGE.

    Example: kdx query classify grpc://localhost:8001 photo.jpg --label cat --label dog
    """
    import kdx

    names = [*labels, *(_read_labels(labels_from) if labels_from else ())]
    if not names:
        raise click.UsageError("give the classes with --label or --labels-from")
    with kdx.load(model) as embedder:
        found = embedder.classify(images, names, templates=templates or None, top_k=top_k)
    if as_json:
        rows = [
            {"image": name, "top": [{"label": label, "score": score} for label, score in best]}
            for name, best in zip(images, found, strict=True)
        ]
        print_json(rows)
        return
    for name, best in zip(images, found, strict=True):
        click.echo(f"{name}  " + "   ".join(f"{label} {100 * score:.1f} %" for label, score in best))


@command.command()
@click.argument("model")
@click.argument("query", metavar="TEXT", type=_Utf8())
@click.argument("places", nargs=-1, required=True, metavar="PLACE...", type=click.Path(path_type=Path))
@click.option("--top", "top_k", type=click.IntRange(1), default=10, show_default=True, help="Images to show.")
@_dimensions
@_json
def search(
    model: str, query: str, places: tuple[Path, ...], top_k: int, dimensions: int | None, as_json: bool
) -> None:
    """Find the images nearest to TEXT. A PLACE is an image, a folder of images, or a set (its val split).

    Example: kdx query search grpc://localhost:8001 "a red star" photos
    """
    import kdx
    from kdx.cli.progress import show_progress
    from kdx.serve.search import ExactSearch

    images = {name: image for place in places for name, image in _images_at(place).items()}
    with kdx.load(model) as embedder, show_progress("embedding images") as progress:
        index = ExactSearch(embedder, images, dimensions=dimensions, progress=progress)
        hits = index.find(query, top_k)
    for name, reason in list(index.refused.items())[:REFUSED_SHOWN]:
        click.echo(f"left out {name}: {reason}", err=True)
    if len(index.refused) > REFUSED_SHOWN:
        click.echo(f"left out {len(index.refused)} images in all", err=True)
    if as_json:
        print_json([{"image": name, "cosine": cosine} for name, cosine in hits])
        return
    for name, cosine in hits:
        click.echo(f"{cosine:7.4f}  {name}")


def _show(names: list[str], embeddings: FloatArray, out: Path | None, as_json: bool) -> None:
    if out:
        import io

        import numpy as np

        from kdx.core.folders import write_atomic

        file = io.BytesIO()
        np.save(file, embeddings)
        write_atomic(out, file.getvalue())
    if as_json:
        rows = [
            {"input": name, "embedding": row.tolist()} for name, row in zip(names, embeddings, strict=True)
        ]
        print_json(rows, indent=None)
        return
    for name, row in zip(names, embeddings, strict=True):
        numbers = " ".join(f"{number:+.4f}" for number in row[:SHOWN])
        click.echo(f"[{len(row)}] {numbers} …  {name}")
    if out:
        click.echo(f"saved float32 {list(embeddings.shape)} to {out}", err=True)


def _read_labels(path: Path) -> list[str]:
    from kdx.core.errors import DataError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=path, remedy="give a text file in UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def _images_at(place: Path) -> dict[str, ImageSource]:
    from kdx.core.errors import DataError
    from kdx.core.image_suffixes import SUFFIXES, UNREAD_SUFFIXES
    from kdx.core.urls import shown, url_of
    from kdx.data.shards import open_split, shard_paths

    if url_of(place) is None and not place.is_dir():
        if not place.is_file():
            raise DataError("there is no such file or folder", where=place, remedy="check the path")
        return {str(place): place}
    if shard_paths(place, "val"):
        samples = open_split(place, "val", need_captions=False)
        return {f"{shown(place)}:{sample.key}": sample.image for sample in samples}
    files = sorted(file for file in place.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    unread = [file for file in files if file.suffix.lower() in UNREAD_SUFFIXES]
    if unread:
        kinds = ", ".join(sorted({file.suffix.lower() for file in unread}))
        click.echo(
            f"left out {len(unread)} files of {place} that are not read ({kinds}); convert them", err=True
        )
    if not images:
        raise DataError("holds no images", where=place, remedy="give images, a folder of them, or a set")
    return {str(file): file for file in images}
