"""`kdx bench`: latency of models side by side, methods compared, and the report's page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .bench_data import command as data
from .bench_matryoshka import command as matryoshka
from .bench_methods import command as methods
from .bench_train import command as train
from .output import print_json, print_table, tell_document

if TYPE_CHECKING:
    from kdx.data.shards import Sample

PREPROCESS = "preprocess"  # the row beside the models
TEXTS = "texts of "  # before a model's name: its calls with captions
NUMBERS = ("p50", "p95", "p99", "min")
NUM_IMAGES = 64  # different images that take turns


@click.group(name="bench")
def command() -> None:
    """Measure latency, compare distillation methods and write reports.

    Example: kdx bench latency exported grpc://localhost:8001 --data shards
    """


command.add_command(data)
command.add_command(train)
command.add_command(methods)
command.add_command(matryoshka)


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
    help="Images, or captions, in a call; may be given several times.",
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
    """Time from encoded images, and from captions, to embeddings, the MODELs taking turns; and their memory.

    A MODEL is a checkpoint, a run, an exported model, or a Triton server at grpc://HOST:PORT. The row "preprocess" is
    decoding and preprocessing alone: what the others hold besides the model (by the first MODEL's settings).

    Memory is the peak of a fresh process that opens one MODEL and embeds the largest batch, Python and libraries
    included. Of a server it is not measured: it lies in the server's process, perhaps on another machine.

    Example: kdx bench latency student-run exported grpc://localhost:8001 --data shards
    """
    from contextlib import ExitStack

    import kdx
    from kdx.bench import Embed, measure_latency, peak_memory
    from kdx.cli.progress import show_progress
    from kdx.core.provenance import collect_provenance
    from kdx.data.sampling import readable_samples
    from kdx.data.shards import open_split

    if len({PREPROCESS, *models}) <= len(models):
        raise click.UsageError(f"every MODEL must be given once, and none may be called {PREPROCESS}")
    samples = readable_samples(open_split(data, split, need_captions=False), NUM_IMAGES)
    has_captions = all(sample.captions for sample in samples)
    with ExitStack() as stack, show_progress("latency") as progress:
        embedders = {model: stack.enter_context(kdx.load(model)) for model in models}
        preprocess = embedders[models[0]].spec.preprocess()
        calls: dict[str, Embed[Sample]] = {}
        for model, embedder in embedders.items():
            calls[model] = lambda batch, embed=embedder.embed_images: embed(_images(batch))
            if has_captions:
                calls[TEXTS + model] = lambda batch, embed=embedder.embed_and_count: embed(_texts(batch))[0]
        calls[PREPROCESS] = lambda batch: [preprocess(image) for image in _images(batch)]
        measured = measure_latency(
            calls, samples, batch_sizes=batch_sizes, seconds=seconds, progress=progress
        )
    most = [samples[row % len(samples)] for row in range(max(batch_sizes))]
    with show_progress("memory") as progress:
        memory: dict[str, float | None] = {}
        for model in models:
            texts = _texts(most) if has_captions else []
            memory[model] = None if "://" in model else peak_memory(model, _images(most), texts)
            progress(len(memory), len(models))
    of_texts = {name.removeprefix(TEXTS): row for name, row in measured.items() if name.startswith(TEXTS)}
    of_images = {name: row for name, row in measured.items() if not name.startswith(TEXTS)}
    if as_json:
        print_json(
            {
                "latency_ms": of_images,
                "text_latency_ms": of_texts,
                "memory_mib": memory,
                "provenance": collect_provenance(),
            }
        )
        return
    _print_latency(of_images, of_texts, memory)
    one = measured[PREPROCESS][str(batch_sizes[0])]
    click.echo(
        f"ms for the batch; load average {one['load_average']:.1f}; the measurement itself adds "
        f"{one['null_ms']:.4f} ms; MiB at the peak of a process with this model alone",
        err=True,
    )


def _images(samples: list[Sample]) -> list[bytes]:
    return [sample.image for sample in samples]


def _texts(samples: list[Sample]) -> list[str]:
    return [sample.captions[0] for sample in samples]


@command.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long to measure each student; five calls each are timed in any case.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def runtimes(models: tuple[Path, ...], seconds: float, out: Path | None, as_json: bool) -> None:
    """Compare exported models with the checkpoints they were made from: time of the encoders alone, on one thread.

    Each MODEL, a checkpoint, a run or an exported model, runs in a process of its own; they take turns. Exported models
    are put beside the checkpoint that they were made from, which must be among the MODELs.

    Example: kdx bench runtimes student student-onnx student-openvino
    """
    from kdx.bench.runtimes import compare_runtimes, runtimes_table
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_place

    if out is not None:
        check_place(out)
    with show_progress("runtimes") as progress:
        document = compare_runtimes(models, seconds=seconds, progress=progress)
    tell_document(document, runtimes_table(document), out, as_json)


@command.command()
@click.argument("exported_model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with shards.")
@click.option("--split", default="val", show_default=True, help="Which shards: val or train.")
@click.option(
    "--clients", type=click.IntRange(1, 256), default=8, show_default=True, help="Who ask at a time."
)
@click.option(
    "--instances",
    type=click.IntRange(1, 256),
    help="Of the server's models, and processes.  [default: cores]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Of each, in each round.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Turns of each.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def serving(
    exported_model: Path,
    data: Path,
    split: str,
    clients: int,
    instances: int | None,
    seconds: float,
    rounds: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Images a second through a Triton that is started for it, beside processes that run the same model without one.

    Clients on this machine send one encoded image after another. Then as many processes as the server has instances
    embed the same images, on one thread each: the most that its cores could do. The two take turns.

    Example: kdx bench serving exported --data shards
    """
    from kdx.bench.serving import measure_serving, serving_table
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_place
    from kdx.data.sampling import readable_samples
    from kdx.data.shards import open_split

    if out is not None:
        check_place(out)
    samples = readable_samples(open_split(data, split, need_captions=False), NUM_IMAGES)
    with show_progress("serving") as progress:
        document = measure_serving(
            exported_model,
            _images(samples),
            clients=clients,
            instances=instances,
            seconds=seconds,
            rounds=rounds,
            progress=progress,
        )
    tell_document(document, serving_table(document), out, as_json)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html in FOLDER again, from the report.json and report-data.json that lie there.

    Example: kdx bench report kdx-demo
    """
    from kdx.bench import render_report

    click.echo(render_report(folder))


def _print_latency(
    images: dict[str, dict[str, dict[str, float]]],
    texts: dict[str, dict[str, dict[str, float]]],
    memory: dict[str, float | None],
) -> None:
    from rich.table import Table
    from rich.text import Text

    header = ("model", "of", "batch", *NUMBERS, "samples", "MiB")
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for of, measured in (("images", images), ("texts", texts)):
        for model, batches in measured.items():
            for batch, row in batches.items():
                numbers = [f"{row[name]:.3f}" for name in NUMBERS]
                peak = memory.get(model)
                mib = "" if model not in memory else "the server's" if peak is None else f"{peak:.0f}"
                table.add_row(Text(model), of, batch, *numbers, f"{row['num_samples']:.0f}", mib)
    print_table(table)
