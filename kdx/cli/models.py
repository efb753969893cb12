"""`kdx models`: which architectures there are, and checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path

import click

from .output import print_json, print_table


@click.group(name="models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the architectures that have a name: kdx's own and open_clip's.

    Each can be trained as a student, distilled from as a teacher, and exported; `needs` says what has to be there for
    that. Texts are up to so many tokens long (≤), or always as long. A recipe's student and `kdx models init` also take
    timm:NAME+TEXT, a timm trunk beside a text tower from the smallest, XS, over S, T and B to L
    (timm:efficientnet_b1+S).

    Example: kdx models --json
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json is for the list, not for {ctx.invoked_subcommand}")
        return
    from kdx.models.listing import census, list_architectures

    listed = list_architectures()
    if as_json:
        print_json([each.to_dict() for each in listed])
        return
    from rich.table import Table

    columns = ("name", "image", "text", "total", "pixels", "tokens", "needs", "")
    table = Table(*columns, header_style="bold", box=None)
    for column in table.columns[1:6]:
        column.justify = "right"
    for each in listed:
        millions = (f"{n / 1e6:.2f} M" for n in (each.image_params, each.text_params, each.total_params))
        sizes = str(each.image_size), each.lengths
        table.add_row(each.name, *millions, *sizes, ", ".join(each.needs), each.about)
    print_table(table)
    click.echo(f"{len(listed)} architectures, among them {census()}", err=True)


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
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="A folder with the tokenizer.json of an architecture that does not have CLIP's. Left out: the hub.",
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that lies there.")
def init(name: str, seed: int, out: Path, tokenizer: Path | None, overwrite: bool) -> None:
    """Write a checkpoint of architecture NAME with random weights, for tests and export checks.

    Example: kdx models init ViT-T-16 --seed 0 --out vit-t
    """
    from kdx.core.folders import check_free
    from kdx.models.architectures import build_model, read_architecture
    from kdx.models.checkpoint import KIND, save_checkpoint
    from kdx.models.text_tokenizer import tokenizer_of

    architecture = read_architecture(name)
    reads_with = tokenizer_of(architecture, tokenizer)
    check_free(out, KIND, overwrite=overwrite)
    model = build_model(architecture, seed)
    save_checkpoint(out, model, architecture, reads_with, overwrite=overwrite, seeds={"init": seed})
    click.echo(out)


@command.command("save-open-clip")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the folder is written.")
@click.option("--overwrite", is_flag=True, help="Replace such a folder that lies there.")
def save_open_clip(checkpoint: Path, out: Path, overwrite: bool) -> None:
    """Write CHECKPOINT (or a run's student) as a folder that open_clip loads; the inverse of `kdx import`.

    OUT/open_clip_model.safetensors goes into open_clip.create_model(NAME, pretrained=FILE) after
    open_clip.add_model_config(OUT); open_clip.create_model("local-dir:OUT") needs nothing else, and
    open_clip.get_tokenizer("local-dir:OUT") has the model's own tokenizer.

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
