"""`kdx bench`: latency of models side by side, and the report's page."""

from __future__ import annotations

import json
from pathlib import Path

import click

PREPROCESS = "preprocess"  # the row beside the models
NUM_IMAGES = 64  # different images that take turns


@click.group(name="bench")
def command() -> None:
    """Measure latency and write reports."""


@command.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with shards.")
@click.option("--split", default="val", show_default=True, help="Which shards: val or train.")
@click.option(
    "--batch",
    "batch_sizes",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Images a call; may be given several times.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="How long to measure; 30 samples each are taken in any case.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def latency(
    models: tuple[str, ...],
    data: Path,
    split: str,
    batch_sizes: tuple[int, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Time from encoded images to embeddings, the MODELs taking turns.

    A MODEL is a checkpoint, a run, an exported model, or a Triton server at grpc://HOST:PORT. The last row,
    preprocess, is decoding and preprocessing alone: what the others hold besides the model (by the first
    MODEL's settings).

    Example: kdx bench latency student-run exported grpc://localhost:8001 --data shards
    """
    from contextlib import ExitStack

    import kdx
    from kdx.bench import Embed, measure_latency
    from kdx.cli.progress import show_progress
    from kdx.core.provenance import collect_provenance

    if len({PREPROCESS, *models}) <= len(models):
        raise click.UsageError(f"every MODEL must be given once, and none may be called {PREPROCESS}")
    images = _some_images(data, split)
    with ExitStack() as stack, show_progress("latency") as progress:
        encoders = {model: stack.enter_context(kdx.load(model)) for model in models}
        preprocess = next(iter(encoders.values())).preprocess
        calls: dict[str, Embed] = {model: encoder.embed_images for model, encoder in encoders.items()}
        calls[PREPROCESS] = lambda batch: [preprocess(image) for image in batch]
        measured = measure_latency(calls, images, batch_sizes=batch_sizes, seconds=seconds, progress=progress)
    if as_json:
        document = {"latency_ms": measured, "provenance": collect_provenance()}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(_table(measured))
    one = measured[PREPROCESS][str(batch_sizes[0])]
    click.echo(
        f"ms for the batch; load average {one['load_average']:.1f}; the measurement itself adds "
        f"{one['null_ms']:.4f} ms",
        err=True,
    )


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html in FOLDER again, from the report.json and report-data.json that lie there.

    Example: kdx bench report kdx-demo
    """
    from kdx.bench import render_report

    click.echo(render_report(folder))


def _some_images(data: Path, split: str) -> list[bytes]:
    """Up to NUM_IMAGES encoded images that decode. Raises DataError if the split's first ones do not."""
    from kdx.core.errors import DataError
    from kdx.core.preprocess import decode_image
    from kdx.data.shards import open_split

    images: list[bytes] = []
    for sample in open_split(data, split)[:NUM_IMAGES]:
        try:
            decode_image(sample.image)
        except DataError:
            continue
        images.append(sample.image)
    if not images:
        raise DataError(
            f"none of the first images of the split {split!r} decodes", where=data, remedy="repair the shards"
        )
    return images


def _table(measured: dict[str, dict[str, dict[str, float]]]) -> str:
    width = max(map(len, ("model", *measured)))
    lines = [f"{'model':<{width}}  batch      p50      p95      p99      min  samples"]
    for model, batches in measured.items():
        for batch, row in batches.items():
            numbers = "  ".join(f"{row[name]:7.3f}" for name in ("p50", "p95", "p99", "min"))
            lines.append(f"{model:<{width}}  {batch:>5}  {numbers}  {row['num_samples']:7.0f}")
    return "\n".join(lines)
