"""`kdx import`: from weights of open_clip, OpenAI, CLIP-KD or Hugging Face to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from .output import print_json


@click.command(name="import")
@click.argument("source")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the checkpoint is written."
)
@click.option(
    "--architecture", help="What the weights belong to: a name of kdx or open_clip, or timm:NAME+TEXT."
)
@click.option(
    "--quick-gelu",
    is_flag=True,
    help="The towers use QuickGELU, as OpenAI's; weights do not show it. OpenAI's own files are recognised.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="A folder with the tokenizer.json of a model that does not have CLIP's. Left out: SOURCE, or the hub.",
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that lies at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    source: str,
    out: Path,
    architecture: str | None,
    quick_gelu: bool,
    tokenizer: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Read the weights of SOURCE and write them as a checkpoint.

    SOURCE is a weight file (.pt, .bin, .safetensors, or the index of its shards) of open_clip, OpenAI, CLIP-KD,
    MobileCLIP, PE-Core, EVA-CLIP or TinyCLIP, a folder of open_clip or of a Hugging Face CLIPModel, MetaClip2Model or
    SiglipModel, or a published name: NAME:TAG of open_clip, or hf-hub:OWNER/MODEL. Keys and shapes of a file tell its
    architecture; a file that would run code is not read. The inverse is `kdx models save-open-clip`.

    Example: kdx import ViT_B_16-laion400m_e32.pt --out teacher
    """
    from kdx.models.foreign.importing import import_checkpoint

    report = import_checkpoint(
        source,
        out,
        architecture=architecture,
        quick_gelu=quick_gelu,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )
    if as_json:
        print_json(report.to_dict())
        return
    click.echo(out)
    click.echo(f"architecture: {report.architecture}", err=True)
    for change in report.changes:
        click.echo(f"  {change}", err=True)
    for assumption in report.assumptions:
        click.echo(f"  not in the weights, taken: {assumption}", err=True)
    click.echo(f"next: kdx eval {out} --data SHARDS", err=True)
