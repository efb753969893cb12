"""`kdx eval`: what models score on a split of a shard folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdx.cli.output import print_json

if TYPE_CHECKING:
    from kdx.evaluate import Evaluation, Proportion


@click.command(name="eval")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with shards.")
@click.option("--split", default="val", show_default=True, help="Which shards: val or train.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Take this many samples, evenly spread over the split."
)
@click.option(
    "--table",
    is_flag=True,
    help="Print a family's table: each MODEL a run or a checkpoint, seeds put together, beside published scores.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for comparison.json and .md of several models, family.json, .md and .html of --table; it is made.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    models: tuple[str, ...],
    data: Path,
    split: str,
    limit: int | None,
    table: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Zero-shot accuracy and retrieval recall of MODEL, with 95 % intervals.

    MODEL is a checkpoint, a run, an exported model, or a Triton server at grpc://HOST:PORT. Of several, each is
    compared with the first on the same images: the difference of their scores with its interval, McNemar's exact test,
    and how often they name the same class.

    --table puts runs side by side as papers do, and draws accuracy over size and over latency.

    Example: kdx eval student-run exported --data shards
    """
    import kdx
    from kdx.cli.progress import show_progress
    from kdx.data.shards import open_split
    from kdx.evaluate import evaluate_set

    from .eval_compare import show_comparison
    from .eval_table import show_family

    model, *others = models
    if out and not others and not table:
        raise click.UsageError("--out is for several models; --json prints the score of one")
    samples = open_split(data, split, need_captions=False)
    if table:
        show_family(models, samples, limit, out, as_json)
        return
    if others:
        show_comparison(models, samples, limit, out, as_json)
        return
    with kdx.load(model) as embedder, show_progress("images") as progress:
        evaluation = evaluate_set(embedder, samples, limit=limit, progress=progress)
    if as_json:
        print_json(evaluation.to_dict())
    else:
        click.echo(_text(evaluation))


def _text(evaluation: Evaluation) -> str:
    lines = [f"{evaluation.model}, {evaluation.dataset}, {evaluation.num_images:,} images"]
    if evaluation.bad_images:
        lines.append(f"{evaluation.bad_images:,} images that do not decode were left out")
    if evaluation.skipped_samples:
        lines.append(f"{evaluation.skipped_samples:,} malformed samples of the set were left out")
    zero_shot, retrieval = evaluation.zero_shot, evaluation.retrieval
    if zero_shot:
        lines += ["", f"zero-shot: {zero_shot.protocol}", f"  top-1           {_percent(zero_shot.top1)}"]
        if zero_shot.top5:
            lines.append(f"  top-5           {_percent(zero_shot.top5)}")
        lines.append(f"  mean per class  {100 * zero_shot.mean_per_class:5.1f} %")
    if retrieval:
        lines += ["", f"retrieval: {retrieval.protocol}"]
        for name, recalls in (
            ("image → text", retrieval.image_to_text),
            ("text → image", retrieval.text_to_image),
        ):
            lines += [f"  {name}  recall@{k:<2}  {_percent(recall)}" for k, recall in recalls.items()]
    return "\n".join(lines)


def _percent(proportion: Proportion) -> str:
    low, high = (100 * bound for bound in proportion.interval)
    return f"{100 * proportion.value:5.1f} %  ({low:.1f} … {high:.1f})"
