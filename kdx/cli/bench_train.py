"""`kdx bench train`: seconds a step of distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from .output import tell_document


@click.command(name="train")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with train shards.")
@click.option("--student", default="ViT-T-16", show_default=True, help="Name of an architecture.")
@click.option("--teacher", default="ViT-B-16", show_default=True, help="Name of an architecture.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of all programs.",
)
@click.option("--batch-size", type=click.IntRange(min=2), default=16, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(2, 10_000),
    default=12,
    show_default=True,
    help="Of each program, in each turn.",
)
@click.option("--turns", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--peer",
    type=click.Path(path_type=Path),
    help="Python of an environment with open_clip_torch[training], whose trainer is then measured too.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    data: Path,
    student: str,
    teacher: str,
    precision: Literal["fp32", "bf16"],
    batch_size: int,
    steps: int,
    turns: int,
    peer: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Seconds a step of training the student: alone, from a teacher cache, with the teacher
    online, and by open_clip's trainer.

    The programs take turns, each in a process of its own, with random weights.

    Example: kdx bench train --data shards --peer open-clip-env/bin/python --out training
    """
    from kdx.bench.training import measure_training, training_table
    from kdx.cli.progress import show_progress
    from kdx.core.folders import check_place

    if out is not None:
        check_place(out)
    with show_progress("training") as progress:
        document = measure_training(
            data,
            student=student,
            teacher=teacher,
            precision=precision,
            batch_size=batch_size,
            steps=steps,
            turns=turns,
            peer=peer,
            progress=progress,
        )
    tell_document(document, training_table(document), out, as_json)
