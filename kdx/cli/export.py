"""`kdx export`: from a checkpoint to an exported model, through the parity gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json

if TYPE_CHECKING:
    from kdx.core.encoder import Embedder
    from kdx.runtime.deferred import DeferredExport
    from kdx.runtime.exported_model import ExportedModel


COMMANDLINE = click.core.ParameterSource.COMMANDLINE


@click.command(name="export")
@click.argument("models", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path(path_type=Path))
@click.option("--format", "format_", default="onnx", show_default=True, help="What to export to.")
@click.option("--precision", help="Of weights and arithmetic.  [default: the format's first, mostly fp32]")
@click.option("--target", help="What the files are made to run on.  [default: the format's first]")
@click.option("--out", type=click.Path(path_type=Path), help="Where the exported model is written.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Set whose val split the gate compares on: parity is only shown on real, held-out images.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many images the gate compares, or --table scores.",
)
@click.option(
    "--defer", is_flag=True, help="Seal what the machine with the GPU needs to build it (trt, trt-rtx)."
)
@click.option(
    "--finish", is_flag=True, help="Build and check here what was sealed with --defer, given as CHECKPOINT."
)
@click.option(
    "--allow-inconclusive",
    is_flag=True,
    help="Keep a model that the images are too few to judge; what serves it says so.",
)
@click.option(
    "--end-to-end",
    is_flag=True,
    help="Also serve it with Triton, and compare what comes back for the images' bytes and the texts.",
)
@click.option(
    "--table",
    is_flag=True,
    help="Compare exported models, given as CHECKPOINT...: accuracy, size, latency, parity; a picture in --out.",
)
@click.option("--budget", help='The same, and name the most accurate that meets it: "p95<=20ms@batch=1".')
@click.option("--overwrite", is_flag=True, help="Replace an exported model that lies at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the parity report as one JSON document.")
def command(
    models: tuple[Path, ...],
    format_: str,
    precision: str | None,
    target: str | None,
    out: Path | None,
    data: Path | None,
    samples: int,
    defer: bool,
    finish: bool,
    allow_inconclusive: bool,
    end_to_end: bool,
    table: bool,
    budget: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, or the student of a training run, to files for a faster runtime.

    They are kept only if they pass the parity gate: the same held-out images and texts go through PyTorch and through
    the exported files, and embeddings and decisions are compared. If they differ, nothing is written and the exit code
    is 3. INCONCLUSIVE means that the images are too few to tell: nothing is written either, and the exit code is 6.

    TensorRT builds for the GPU of the machine that it runs on. On another machine, --defer seals the graphs with
    PyTorch's answers for the gate; there `kdx export --finish DEFERRED --out DIR` builds and checks, without PyTorch.

    With --table several exported models are measured here, in turn. With --budget the path of the most accurate that
    meets it is all that stands on stdout; where none does, the exit code is 3.

    Example: kdx export student-run --data shards --out student-onnx
    """
    from kdx.cli.progress import show_progress

    if table or budget:
        from .export_table import show_table

        if precision or target or defer or finish or end_to_end or allow_inconclusive or overwrite:
            raise click.UsageError(
                "--table and --budget compare what is exported already: they export nothing"
            )
        show_table(models, _needed(data, "--data"), samples, budget, out, as_json)
        return
    if len(models) > 1:
        raise click.UsageError("one CHECKPOINT is exported at a time; several exported models need --table")
    checkpoint, out = next(iter(models)), _needed(out, "--out")
    if finish:
        from kdx.export.finishing import finish_export

        _refuse_what_was_sealed()
        with show_progress("export") as progress:
            made = finish_export(
                checkpoint,
                out,
                allow_inconclusive=allow_inconclusive,
                overwrite=overwrite,
                progress=progress,
            )
        _print(made, as_json)
        return
    if defer and end_to_end:
        raise click.UsageError("--end-to-end serves what is built here, and --defer builds nothing")
    data = _needed(data, "--data")

    from kdx.core.folders import check_free
    from kdx.export.calibration import read_calibration_samples
    from kdx.export.deferred import defer_export
    from kdx.export.exported import export_checkpoint
    from kdx.export.gate import check_enough
    from kdx.export.quantization import slower_towers
    from kdx.export.samples import read_parity_samples
    from kdx.models.checkpoint import open_checkpoint
    from kdx.runtime.deferred import KIND as DEFERRED, DeferredExport, check_deferrable
    from kdx.runtime.exported_model import KIND
    from kdx.runtime.formats import choose
    from kdx.serve.environment import find_triton

    chosen, precision, target = choose(format_, precision, target, here=not defer)
    if defer:
        check_deferrable(format_)
    check_free(out, DEFERRED if defer else KIND, overwrite=overwrite)
    device = "gpu" if chosen.targets[0] == "trt" else "cpu"
    if end_to_end:
        if target == "trt" and device == "cpu":
            raise click.UsageError("files for TensorRT are not served before an engine is built of them")
        find_triton(format_, device)
    held_out = read_parity_samples(data, samples)
    calibration = read_calibration_samples(data, held_out) if precision == "int8" else None
    if not allow_inconclusive:
        check_enough(held_out, chosen.precisions[precision])
    opened = open_checkpoint(checkpoint)
    with show_progress("export") as progress:
        serve = partial(_served, device=device) if end_to_end else None
        export = defer_export if defer else partial(export_checkpoint, serve=serve, measure=True)
        made = export(
            opened,
            out,
            format=format_,
            precision=precision,
            target=target,
            samples=held_out,
            calibration=calibration,
            allow_inconclusive=allow_inconclusive,
            overwrite=overwrite,
            progress=progress,
        )
    if isinstance(made, DeferredExport):
        _print_deferred(made, as_json)
    else:
        _print(made, as_json, slower_towers(made.options))


def _refuse_what_was_sealed() -> None:
    """Raises click.UsageError for an option that --finish could only ignore."""
    context = click.get_current_context()
    sealed = ("format_", "precision", "target", "data", "samples", "defer", "end_to_end")
    for parameter in context.command.params:
        if parameter.name in sealed and context.get_parameter_source(parameter.name) is COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} was settled by --defer: --finish builds what lies in CHECKPOINT"
            )


def _needed(value: Path | None, option: str) -> Path:
    if value is None:
        raise click.MissingParameter(param_hint=f"'{option}'", param_type="option")
    return value


def _print(exported: ExportedModel, as_json: bool, notes: Sequence[str] = ()) -> None:
    report = exported.parity()
    if as_json:
        print_json(report)
        return
    click.echo(exported.path)
    click.echo(parity_table(report), err=True)
    if speed := exported.manifest.fields.get("speed"):
        click.echo(speed_text(speed), err=True)
    for sentence in notes:
        click.echo(f"note: {sentence}", err=True)
    click.echo(f"next: kdx serve up {exported.path}", err=True)
    if report["verdict"] != "PASS":
        click.echo(f"{report['verdict']}: kept as asked by --allow-inconclusive", err=True)


def _print_deferred(deferred: DeferredExport, as_json: bool) -> None:
    if as_json:
        print_json(deferred.manifest.fields)
        return
    click.echo(deferred.path)
    proved_by = (
        deferred.manifest.fields["proved_by"] or "nobody: pip install 'kdx[trt-rtx]' to ask NVIDIA's parser"
    )
    click.echo(f"graphs taken by: {proved_by}", err=True)
    click.echo(f"next, on the GPU machine: kdx export --finish {deferred.path.name} --out DIR", err=True)


def parity_table(report: dict[str, object]) -> str:
    """The verdict and its numbers as a few lines."""
    lines = [f"parity: {report['verdict']}"]
    for tower in ("image", "text"):
        numbers = report[tower]
        assert isinstance(numbers, dict)
        lines.append(
            f"  {tower:<5}  max abs {numbers['max_abs']:.2g}   min cosine {numbers['min_cosine']:.8f}"
            f"   centred, half are above {1 - numbers['centred_cosine_distance_p50']:.6f}"
            f"   ({numbers['num_samples']} samples)"
        )
    at_widths = report.get("at_widths", {})
    assert isinstance(at_widths, dict)
    for width, towers in at_widths.items():
        image, text = (towers[tower]["min_cosine"] for tower in ("image", "text"))
        lines.append(f"  first {width} dimensions: min cosine {image:.8f} of images, {text:.8f} of texts")
    decisions = report["decisions"]
    assert isinstance(decisions, list)
    for made in decisions:
        ties = f", and {made['differ_at_ties']} between equals" if made["differ_at_ties"] else ""
        lines.append(
            f"  {made['name']}: {made['differ']} of {made['num_samples']} differ{ties};"
            f" at most {made['upper_bound']:.2%} do, with 95 % confidence"
        )
    tiers = report["tiers"]
    assert isinstance(tiers, dict)
    for name, tier in tiers.items():
        if tier["verdict"] == "SKIPPED":
            lines.append(f"  {name}: SKIPPED, {tier['reason']}")
        for check in tier["checks"]:
            if check["verdict"] in ("FAIL", "INCONCLUSIVE"):
                detail = f": {check['detail']}" if "detail" in check else ""
                lines.append(f"  {check['verdict']}: {name}: {check['name']}{detail}")
    if any(report[tower]["mean_pairwise_cosine"] > 0.999 for tower in ("image", "text")):  # pyright: ignore[reportIndexIssue]
        lines.append("  note: all embeddings lie in one direction, so that any two models would look alike")
    return "\n".join(lines)


def speed_text(speed: dict[str, Any]) -> str:
    """One line of the manifest's speed."""
    one, many = speed["image"].values()
    text = speed["text"]["1"]
    return (
        f"speed here, one thread: an image {one['p50']:.3g} ms, 32 images {many['p50']:.3g} ms, a text of "
        f"{speed['text_length']} tokens {text['p50']:.3g} ms; {speed['peak_mib']:.0f} MiB"
    )


@contextmanager
def _served(model: Path, *, device: str) -> Iterator[Embedder]:
    """The exported model behind a Triton of its own, for as long as the block runs."""
    import kdx
    from kdx.serve.repository import write_repository
    from kdx.serve.supervisor import TritonServer

    repository = write_repository(model, model.with_name("repository"), device=device)
    with TritonServer(repository, model.with_name("triton.log")) as server, kdx.load(server.url) as served:
        yield served
