"""`kdx parity`: do two models give the same embeddings and decisions?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import print_json, save_document

if TYPE_CHECKING:
    from kdx.core.encoder import Embedder
    from kdx.runtime.formats import Limits

REPORT = "parity"  # .json and .html in --out


@click.command(name="parity")
@click.argument("reference")
@click.argument("candidate")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Set on whose val split they are compared.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=1000, show_default=True, help="How many images at most."
)
@click.option(
    "--precision", help="Whose limits hold.  [default: CANDIDATE's if it is an exported model, else fp32]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"Folder for {REPORT}.json and the picture {REPORT}.html; it is made.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    reference: str,
    candidate: str,
    data: Path,
    samples: int,
    precision: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare CANDIDATE with REFERENCE on the same encoded images and texts, each prepared by the model's own rules.

    Each is a checkpoint, a run, an exported model, or a Triton server at grpc://HOST:PORT. The exit code is 0 for PASS,
    3 for FAIL, and 6 for INCONCLUSIVE: the images are too few to tell.

    Example: kdx parity student-run grpc://localhost:8001 --data shards --out parity
    """
    import kdx
    from kdx.cli.export import parity_table
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_place
    from kdx.export.pair import check_comparable, embed_samples, judge_pair
    from kdx.export.samples import read_parity_samples
    from kdx.runtime.formats import find_limits

    precision, limits = (precision, find_limits(precision)) if precision else _limits_of(candidate)
    if out:
        check_place(out / f"{REPORT}.json")
    held_out = read_parity_samples(data, samples)
    with kdx.load(reference) as first, kdx.load(candidate) as second, show_progress("parity") as progress:
        check_comparable(first, second)
        progress(0, 2, _name(first))
        expected = embed_samples(first, held_out)
        progress(1, 2, _name(second))
        answered = embed_samples(second, held_out)
        progress(2, 2)
        about = {"reference": reference, "candidate": candidate, "precision": precision}
        report = judge_pair(expected, answered, limits, about).to_dict()
    if out:
        from kdx.bench.parity_page import render_parity_page

        page = render_parity_page(
            report, (expected.images, expected.texts), (answered.images, answered.texts)
        )
        save_document(out / REPORT, report, html=page)
    if as_json:
        print_json(report)
    else:
        click.echo(parity_table(report))
        if out:
            click.echo(f"picture: {out / REPORT}.html", err=True)
    _exit_by(report["verdict"])


def _limits_of(model: str) -> tuple[str, Limits]:
    """The precision of an exported model with its format's limits; fp32 for every other form."""
    from kdx.core.folders import MANIFEST, read_manifest
    from kdx.runtime.exported_model import KIND, read_exported_model
    from kdx.runtime.formats import LIMITS

    path = Path(model)
    if not (path / MANIFEST).exists() or read_manifest(path).kind != KIND:
        return "fp32", LIMITS["fp32"]
    exported = read_exported_model(path, read_manifest(path))
    return exported.precision, exported.format.precisions[exported.precision]


def _name(model: Embedder) -> str:
    return f"{model.spec.name} ({type(model).__name__})"


def _exit_by(verdict: str) -> None:
    from kdx.core.errors import GateError, InconclusiveError

    codes = {"FAIL": GateError.exit_code, "INCONCLUSIVE": InconclusiveError.exit_code}
    if verdict in codes:
        sys.exit(codes[verdict])
