"""`kdx info`: what a folder of kdx is, what it was made from, its figures and what to type next."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .distill_text import scores_text
from .export import speed_text
from .output import print_json, print_table

if TYPE_CHECKING:
    from kdx.core.folders import Manifest

Facts = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """title: what such a folder is. facts: what only this kind has. next: commands, with {} for the folder."""

    title: str
    facts: Callable[[Path, Mapping[str, Any]], Facts]
    next: tuple[str, ...]


@click.command(name="info")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: Path, as_json: bool) -> None:
    """Say what FOLDER is: its kind, what it was made from and with what command, its figures, what to type next.

    FOLDER is anything that kdx has written (a checkpoint, a run, an exported model, a Triton repository, a teacher
    cache, a comparison of methods or of widths, a demo) or a set of image–text pairs. The folder is checked as well:
    exit 4 if a file of it is missing or has changed (of a teacher cache of more than 256 MiB, files are only counted).

    Example: kdx info student-run
    """
    from kdx.core.errors import DataError

    kind, manifest = _identify(folder)
    facts = {"folder": str(folder), "what": KINDS[kind].title}
    fault: DataError | None = None
    if manifest:
        fault = _fault(folder, manifest)
    try:
        facts |= KINDS[kind].facts(folder, manifest.fields if manifest else {})
    except DataError as error:
        fault = fault or error
    if manifest:
        facts |= _origin(manifest) | {"size": _size(folder), "whole": fault is None}
    commands = [] if fault else [step.format(folder) for step in KINDS[kind].next]
    if as_json:
        print_json({"kind": kind, **facts, "next": commands})
    else:
        _print({**facts, "next": commands} if commands else facts)
    if fault:
        raise fault


def _identify(folder: Path) -> tuple[str, Manifest | None]:
    from kdx.core.errors import DataError, UsageError
    from kdx.core.folders import MANIFEST, read_manifest
    from kdx.core.urls import url_of
    from kdx.data.places import splits_there
    from kdx.data.unpacked import convert_command

    if url_of(folder) is not None:
        raise UsageError(
            "is a URL, and this looks into folders", where=folder, remedy="kdx data info, or kdx cache info"
        )
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, remedy="check the path")
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if manifest.kind in KINDS:
            return manifest.kind, manifest
        raise DataError(
            f"is of kind {manifest.kind}, which this kdx does not know", where=folder, remedy="update kdx"
        )
    if (folder / DEMO).exists():
        return "demo", None
    if splits_there(folder):
        return "set", None
    command = convert_command(folder)
    raise DataError(
        "is no folder of kdx: it has neither a manifest.json nor shards (train-*.tar or val-*.tar)",
        where=folder,
        remedy=f"pack the pictures into shards: {command}"
        if command
        else "check the path; an interrupted run must be started again",
    )


def _fault(folder: Path, manifest: Manifest) -> Any:
    """The DataError of a folder that is not whole; None if it is."""
    from kdx.core.errors import DataError
    from kdx.core.folders import open_sealed

    try:
        # a teacher cache may be of terabytes, and opening it for training does not read its large files either
        open_sealed(folder, manifest.kind, verify_large=manifest.kind != "teacher-cache")
    except DataError as error:
        return error
    return None


def _origin(manifest: Manifest) -> Facts:
    provenance = manifest.provenance
    return {
        "made": manifest.created,
        "by": " ".join([*map(str, provenance.get("command", [])), f"(kdx {provenance.get('kdx')})"]),
        "from": provenance.get("inputs", {}),
    }


def _run(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.log import read_metrics

    facts = _model(folder / "student", {}) | {
        name: fields[name]
        for name in ("methods", "teachers", "data", "epochs", "seconds", "device")
        if fields.get(name)
    }
    if metrics := _read_if_there(folder / "metrics.jsonl", read_metrics):
        facts["final"] = {
            name: metrics[-1][name]
            for name in ("step", "loss", "task", "teacher_cosine")
            if name in metrics[-1]
        }
    scores = fields.get("validation") or {}
    if scores.get("best"):
        facts["scores"] = scores_text(scores, folder)
    if skipped := _read_if_there(folder / "skipped.jsonl", lambda file: file.read_text().splitlines()):
        facts["bad images"] = len(skipped)
    return facts


def _model(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.folders import read_json
    from kdx.core.spelling import listed

    spec = read_json(folder / "config.json").get("spec", {})
    free = spec.get("text_padding", "longest") == "longest"
    facts: Facts = {
        "architecture": spec.get("name"),
        "embeddings": f"{spec.get('embed_dim')} numbers each, from images of {spec.get('image_size')} pixels "
        f"and texts of {'up to ' if free else ''}{spec.get('context_length')} tokens",
    }
    if dims := spec.get("matryoshka_dims"):
        facts["dimensions"] = f"the first {listed(dims[:-1], 'or')} are an embedding by themselves"
    if count := _read_if_there(folder / "model.safetensors", _count_weights):
        facts["weights"] = count
    for name, title in (("changes", "imported"), ("assumptions", "assumed")):
        if fields.get(name):
            facts[title] = fields[name]
    if "score" in fields:  # of a run's best student
        facts["score"] = (
            f"{fields.get('metric')} {100 * fields['score']:.1f} % after step {fields.get('step'):,}"
        )
    return facts


def _exported(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.folders import read_json

    config, parity, towers = (
        read_json(folder / "config.json"),
        read_json(folder / "parity.json"),
        ("image", "text"),
    )
    return {
        **_model(folder, {}),
        "format": config.get("format"),
        "precision": config.get("precision", "fp32"),  # of a folder from before there were others
        "target": config.get("target"),
        "parity": {
            "verdict": parity.get("verdict"),
            "samples": parity.get("num_samples"),
            "largest difference": max(parity.get(tower, {}).get("max_abs", math.nan) for tower in towers),
            "top-1 choices that differ": parity.get("top1_disagreements"),
        },
        **({"speed": speed_text(fields["speed"])} if "speed" in fields else {}),
    }


def _deferred(folder: Path, fields: Mapping[str, Any]) -> Facts:
    return {
        **_model(folder, {}),
        "format": fields.get("format"),
        "precision": fields.get("precision"),
        "graphs taken by": fields.get("proved_by"),
    }


def _repository(folder: Path, fields: Mapping[str, Any]) -> Facts:
    models = sorted(place.name for place in (folder / "models").glob("*"))
    return {**_exported(folder / "exported-model", {}), "models": models}


def _cache(folder: Path, fields: Mapping[str, Any]) -> Facts:
    return {"shards": len(list(folder.glob("*.safetensors"))), "fingerprint": fields.get("fingerprint")}


def _methods(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.folders import read_json

    document = read_json(folder / "methods.json")
    means = {name: row.get("mean") for name, row in document.get("methods", {}).items()}
    return {
        "student": document.get("recipe", {}).get("student"),
        "pairs": document.get("pairs"),
        "metric": document.get("metric"),
        "scores": {"teacher": document.get("teacher"), **means},
    }


def _widths(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.folders import read_json

    document = read_json(folder / "widths.json")
    return {
        "student": document.get("recipe", {}).get("student"),
        "pairs": document.get("pairs"),
        "metric": document.get("metric"),
        "scores": {
            f"{kind}, {width} dimensions": row.get("mean")
            for kind, by_width in document.get("students", {}).items()
            for width, row in by_width.items()
        },
    }


def _for_open_clip(folder: Path, fields: Mapping[str, Any]) -> Facts:
    file = folder / "open_clip_model.safetensors"
    return {
        "architecture": [place.stem for place in folder.glob("*.json") if place.stem not in FIXED_NAMES],
        "weights": _read_if_there(file, _count_weights),
    }


def _demo(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.core.folders import read_json

    facts: Facts = {"made": read_json(folder / DEMO).get("created")}
    if not (folder / "report.json").exists():
        return {**facts, "whole": False}
    report = read_json(folder / "report.json")
    accuracy = report.get("accuracy", {})
    return facts | {
        "setting": report.get("setting"),
        "metric": accuracy.get("metric"),
        "scores": {run: accuracy.get(run) for run in ("teacher", "baseline", "distilled")},
        "parity": report.get("parity", {}).get("verdict"),
        "seconds": sum(report.get("seconds", {}).values()),
        "page": str(folder / "report.html"),
    }


def _set(folder: Path, fields: Mapping[str, Any]) -> Facts:
    from kdx.data.describe import describe_set

    described = describe_set(folder)
    shown = ("samples", "shards", "captions", "labelled")
    facts: Facts = {
        name: {key: split[key] for key in shown} | {"skipped": len(split["skipped"])}
        for name, split in described["splits"].items()
    }
    return facts | {"classes": len(described["classes"] or ()), "size": _size(folder)}


DEMO = "kdx-demo.json"
FIXED_NAMES = ("manifest", "open_clip_config")
_USE = ("kdx eval {} --data SHARDS", "kdx export {} --data SHARDS --out EXPORTED")
KINDS = {
    "checkpoint": Kind("a model in PyTorch (a checkpoint)", _model, _USE),
    "run": Kind("a training run with its student", _run, _USE),
    "exported-model": Kind("an exported model", _exported, ("kdx serve up {}", "kdx eval {} --data SHARDS")),
    "deferred-export": Kind(
        "an export to be built on the machine with the GPU (a deferred export)",
        _deferred,
        ("kdx export --finish {} --out EXPORTED",),
    ),
    "triton-repository": Kind("a Triton model repository", _repository, ("kdx serve up {}",)),
    "teacher-cache": Kind(
        "a teacher's embeddings of a training set (a teacher cache)",
        _cache,
        (
            "kdx cache info {}",
            "kdx distill RECIPE --cache {} --teacher TEACHER --data SHARDS --out RUN",
        ),
    ),
    "methods": Kind("a comparison of distillation methods", _methods, ()),
    "widths": Kind("a comparison of embeddings of several widths", _widths, ()),
    "open-clip-model": Kind(
        "a model for open_clip", _for_open_clip, ('in Python: open_clip.create_model("local-dir:{}")',)
    ),
    "demo": Kind("what kdx demo wrote", _demo, ("kdx serve up {}/exported", "kdx info {}/distilled")),
    "set": Kind("a set of image–text pairs", _set, ("kdx data info {}", "kdx distill --list")),
}


def _read_if_there(file: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` finds in a file that a damaged folder may lack."""
    try:
        return read(file)
    except (OSError, ValueError):
        return None


def _count_weights(file: Path) -> int:
    """Numbers in a safetensors file, by its header alone: no package is needed to read it."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _size(folder: Path) -> str:
    size = float(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _print(facts: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        if value not in (None, "", {}, []):
            table.add_row(Text(name, "bold"), Text(_text(value)))
    print_table(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_text, value))
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text
