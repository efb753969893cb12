"""`kdx export`: from a checkpoint to an exported model, through the parity gate."""

from __future__ import annotations

from pathlib import Path

import click

from .output import print_json


@click.command(name="export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--format", "format_", default="onnx", show_default=True, help="What to export to.")
@click.option("--precision", help="Of weights and arithmetic.  [default: the format's first, mostly fp32]")
@click.option("--target", help="What the files are made to run on.  [default: the format's first]")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the exported model is written."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Set whose val split the gate compares on: parity is only shown on real, held-out images.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many images the gate compares.",
)
@click.option("--overwrite", is_flag=True, help="Replace an exported model that lies at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the parity report as one JSON document.")
def command(
    checkpoint: Path,
    format_: str,
    precision: str | None,
    target: str | None,
    out: Path,
    data: Path,
    samples: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, or the student of a training run, to files for a faster runtime.

    They are kept only if they pass the parity gate: the same held-out images and texts go through PyTorch and through
    the exported files, and embeddings and decisions are compared. If they differ, nothing is written and the exit code
    is 3. INCONCLUSIVE means that no difference was found, on too few images to be sure.

    Example: kdx export student-run --data shards --out student-onnx
    """
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_free
    from kdx.export.calibration import read_calibration_samples
    from kdx.export.exported import export_checkpoint
    from kdx.export.quantization import slower_towers
    from kdx.export.samples import read_parity_samples
    from kdx.models.checkpoint import open_checkpoint
    from kdx.runtime.exported_model import KIND
    from kdx.runtime.formats import choose

    _, precision, target = choose(format_, precision, target)
    check_free(out, KIND, overwrite=overwrite)
    held_out = read_parity_samples(data, samples)
    calibration = read_calibration_samples(data, held_out) if precision == "int8" else None
    opened = open_checkpoint(checkpoint)
    with show_progress("export") as progress:
        exported = export_checkpoint(
            opened,
            out,
            format=format_,
            precision=precision,
            target=target,
            samples=held_out,
            calibration=calibration,
            overwrite=overwrite,
            progress=progress,
        )
    report = exported.parity()
    if as_json:
        print_json(report)
        return
    click.echo(out)
    click.echo(parity_table(report), err=True)
    for sentence in slower_towers(exported.options):
        click.echo(f"note: {sentence}", err=True)
    click.echo(f"next: kdx serve up {out}", err=True)


def parity_table(report: dict[str, object]) -> str:
    """The verdict and its numbers as a few lines."""
    lines = [f"parity: {report['verdict']}"]
    for tower in ("image", "text"):
        numbers = report[tower]
        assert isinstance(numbers, dict)
        lines.append(
            f"  {tower:<5}  max abs {numbers['max_abs']:.2g}   min cosine {numbers['min_cosine']:.8f}"
            f"   tolerance needed {numbers['needed_tolerance']:.2g}   ({numbers['num_samples']} samples)"
        )
    lines.append(
        f"  top-1  {report['top1_disagreements']} of {report['num_samples']} choices differ;"
        f" at most {report['disagreement_upper_bound']:.2%} do, with 95 % confidence"
    )
    tiers = report["tiers"]
    assert isinstance(tiers, dict)
    for tier in tiers.values():
        for check in tier["checks"]:
            if check["verdict"] == "INCONCLUSIVE":
                lines.append(f"  note: {check['detail']}")
    return "\n".join(lines)
