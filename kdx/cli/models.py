"""`kdx models`: which architectures there are, and checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path

import click

from .output import print_json, print_table


@click.group(name="models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the shipped architectures with their parameter counts.

    Others work by name as well, in `kdx models init` and as a recipe's student: open_clip's (ViT-B-32,
    MobileCLIP2-S2, EVA02-B-16 …), and timm:NAME+TEXT, a timm trunk beside a text tower from
    the smallest, XS, over S, T and B to L (timm:efficientnet_b1+S).

    Example: kdx models --json
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json is for the list, not for {ctx.invoked_subcommand}")
        return
    from kdx.models.architectures import count_parameters, read_architecture, shipped_names

    shipped = [read_architecture(name) for name in shipped_names()]
    counts = [count_parameters(architecture) for architecture in shipped]
    if as_json:
        print_json([count.to_dict() for count in counts])
        return
    from rich.table import Table

    table = Table("name", "image", "text", "total", "", header_style="bold", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    for architecture, count in zip(shipped, counts, strict=True):
        millions = (count.image_params, count.text_params, count.total_params)
        table.add_row(count.name, *(f"{n / 1e6:.2f} M" for n in millions), architecture.about)
    print_table(table)


@command.command()
@click.argument("name")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Decides the random weights.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the checkpoint is written."
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that lies there.")
def init(name: str, seed: int, out: Path, overwrite: bool) -> None:
    """Write a checkpoint of architecture NAME with random weights, for tests and export checks.

    Example: kdx models init ViT-T-16 --seed 0 --out vit-t
    """
    from kdx.core.folders import check_free
    from kdx.models.architectures import build_model, read_architecture
    from kdx.models.checkpoint import KIND, save_checkpoint
    from kdx.models.clip_vocabulary import clip_tokenizer

    architecture = read_architecture(name)
    architecture.check_clip_tokenizer()
    check_free(out, KIND, overwrite=overwrite)
    model = build_model(architecture, seed)
    save_checkpoint(out, model, architecture, clip_tokenizer(), overwrite=overwrite, seeds={"init": seed})
    click.echo(out)


@command.command("save-open-clip")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the folder is written.")
@click.option("--overwrite", is_flag=True, help="Replace such a folder that lies there.")
def save_open_clip(checkpoint: Path, out: Path, overwrite: bool) -> None:
    """Write CHECKPOINT (or a run's student) as a folder that open_clip loads; the inverse of `kdx import`.

    OUT/open_clip_model.safetensors goes into open_clip.create_model(NAME, pretrained=FILE) after
    open_clip.add_model_config(OUT); open_clip.create_model("local-dir:OUT") needs nothing else.

    Where torch and torchvision come from different places, `import kdx.models` must come before
    `import open_clip`, as in the line printed at the end.

    Example: kdx models save-open-clip student-run --out student-open-clip
    """
    from kdx.core.folders import check_free
    from kdx.models.checkpoint import open_checkpoint
    from kdx.models.foreign.open_clip_layout import SEALED_FOR_OTHERS, save_open_clip

    check_free(out, SEALED_FOR_OTHERS, overwrite=overwrite)
    opened = open_checkpoint(checkpoint)
    file = save_open_clip(opened, out, overwrite=overwrite)
    click.echo(file)
    load = f'open_clip.create_model("{opened.spec.name}", pretrained="{file}")'
    click.echo(f'next: import kdx.models, open_clip; open_clip.add_model_config("{out}"); {load}', err=True)
