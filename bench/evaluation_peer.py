"""kdx eval beside clip-benchmark: the same weights, files and cores, taking turns. Do scores agree, how fast is each?

    python -m kdx.bench.evaluation_peer CHECKPOINT [EXPORTED…] --data SHARDS --peer PYTHON --out evaluation.json

PYTHON: of an environment with clip-benchmark. Its default layout, WebDataset, is written from the shards, once with
labels and once with captions; kdx reads the very same tars. The peer computes in fp32 as kdx does (--no_amp).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdx.core.folders import write_atomic
from kdx.core.images import read_encoded
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.core.provenance import collect_provenance, cpu_count, cpu_name
from kdx.data.sampling import spread
from kdx.data.shards import ShardSet, open_split

from .peer import peer_command

TASKS = {"zeroshot_classification": "classification", "zeroshot_retrieval": "retrieval"}
RECALLS = (1, 5, 10)
PEER_NAME = "clip-benchmark"
PEER = 'runpy.run_module("clip_benchmark.cli", run_name="peer")["main"]()'


@dataclass(frozen=True)
class Turn:
    """One run of one program, from its start to its end. cpu_seconds: of all its processes and threads, which others on
    the machine change less than `seconds`.
    """

    program: str
    task: str
    seconds: float
    cpu_seconds: float
    load_average: float
    metrics: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, help="a checkpoint, then exported models of it")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="so many images, evenly spread")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=cpu_count(), help="of clip-benchmark's loader")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    write_record(parser.parse_args())


def write_record(options: argparse.Namespace) -> None:
    samples = open_split(options.data, options.split, need_captions=False)
    rows = spread(len(samples), options.limit or len(samples))
    with tempfile.TemporaryDirectory() as folder:
        tasks = list(_write_tasks(samples, rows, Path(folder), options.workers))
        peer = _save_for_peer(options.models[0], Path(folder) / "open-clip")
        turns = [
            turn
            for _ in range(options.turns)
            for task, place in tasks
            for turn in _one_round(options, task, place, peer)
        ]
    record = {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "num_images": len(rows),
        "workers_of_clip_benchmark": options.workers,
        "provenance": collect_provenance(shipped=True),
        "summary": [_summary(task, turns, len(rows)) for task, _ in tasks],
        "turns": [asdict(turn) for turn in turns],
    }
    write_atomic(options.out, json.dumps(record, indent=2) + "\n")


def _one_round(options: argparse.Namespace, task: str, place: Path, peer: Path) -> Iterator[Turn]:
    for model in options.models:
        yield _run_kdx(model, task, place)
    yield _run_peer(options, task, place, peer)


def _write_tasks(
    samples: ShardSet, rows: list[int], folder: Path, num_shards: int
) -> Iterator[tuple[str, Path]]:
    """clip-benchmark's tasks that the set serves, each with its folder."""
    if samples.classes is not None:
        templates = samples.templates or list(DEFAULT_TEMPLATES)
        place = folder / "classification"
        _write_tars(samples, rows, place, num_shards, captions=False)
        for name, lines in (
            ("classnames.txt", samples.classes),
            ("zeroshot_classification_templates.txt", [text.replace("{}", "{c}") for text in templates]),
        ):
            (place / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield "zeroshot_classification", place
    captioned = [row for row in rows if samples.captions(row)]
    if captioned:
        place = folder / "retrieval"
        _write_tars(samples, captioned, place, num_shards, captions=True)
        (place / "dataset_type.txt").write_text("retrieval\n")
        yield "zeroshot_retrieval", place


def _write_tars(samples: ShardSet, rows: list[int], place: Path, num_shards: int, *, captions: bool) -> None:
    (place / "test").mkdir(parents=True)
    (place / "test/nshards.txt").write_text(f"{num_shards}\n")
    for number in range(num_shards):
        with tarfile.open(place / f"test/{number}.tar", "w") as archive:
            for row in rows[number * len(rows) // num_shards : (number + 1) * len(rows) // num_shards]:
                for extension, content in _members(samples, row, captions=captions):
                    header = tarfile.TarInfo(f"s{row:07d}.{extension}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))


def _members(samples: ShardSet, row: int, *, captions: bool) -> Iterator[tuple[str, bytes]]:
    image = read_encoded(samples.image(row))
    yield "png" if image.startswith(b"\x89PNG") else "jpg", image
    if captions:  # a line each
        yield "txt", "\n".join(" ".join(text.split()) for text in samples.captions(row)).encode()
    else:
        yield "cls", str(samples.label(row)).encode()


def _save_for_peer(checkpoint: Path, folder: Path) -> Path:
    from kdx.models.checkpoint import open_checkpoint
    from kdx.models.foreign.open_clip_layout import save_open_clip

    save_open_clip(open_checkpoint(checkpoint), folder)
    return folder


def _run_kdx(model: Path, task: str, place: Path) -> Turn:
    command = [
        sys.executable,
        "-c",
        "from kdx.cli import main; main()",
        "eval",
        model,
        "--dataset",
        "wds",
        "--root",
        place,
        "--json",
    ]
    with tempfile.TemporaryDirectory() as cache:  # no classifier from the turn before
        timed, output = _timed(command, {"KDX_CACHE": cache})
    document = json.loads(output)
    if task == "zeroshot_classification":
        top5 = document["zero_shot"]["top5"]
        metrics = {
            "acc1": document["zero_shot"]["top1"]["value"],
            **({"acc5": top5["value"]} if top5 else {}),
            "mean_per_class_recall": document["zero_shot"]["mean_per_class"]["value"],
        }
    else:
        found = document["retrieval"]
        metrics = {
            f"{name}_retrieval_recall@{k}": found[direction][f"recall@{k}"]["value"]
            for name, direction in (("image", "text_to_image"), ("text", "image_to_text"))
            for k in RECALLS
        }
    return Turn(f"kdx, {model.name}", task, *timed, metrics)


def _run_peer(options: argparse.Namespace, task: str, place: Path, model: Path) -> Turn:
    answer = place / "answer.json"
    command = peer_command(
        options.peer, PEER,
        "eval", "--model", f"local-dir:{model}", "--pretrained", "", "--task", task,
        "--dataset", f"wds/{TASKS[task]}", "--dataset_root", place, "--output", answer,
        "--no_amp", "--num_workers", options.workers, "--recall_k", *RECALLS, "--quiet",
    )  # fmt: skip
    timed, _ = _timed(command, {})
    return Turn(PEER_NAME, task, *timed, json.loads(answer.read_text(encoding="utf-8"))["metrics"])


def _timed(command: Sequence[object], extra: dict[str, str]) -> tuple[tuple[float, float, float], str]:
    """(seconds, CPU seconds, the load before), and what it prints."""
    load = os.getloadavg()[0]
    start, cpu = time.monotonic(), _cpu_of_children()
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **extra}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-3000:]}")
    return (time.monotonic() - start, _cpu_of_children() - cpu, load), done.stdout


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(task: str, turns: list[Turn], num_images: int) -> dict[str, Any]:
    """Medians over the turns, and the difference of each score to the peer's."""
    of_task = [turn for turn in turns if turn.task == task]
    programs = list(dict.fromkeys(turn.program for turn in of_task))

    def median(program: str, name: str) -> float:
        return statistics.median(getattr(turn, name) for turn in of_task if turn.program == program)

    peer = next(turn for turn in of_task if turn.program == PEER_NAME)
    return {
        "task": task,
        "images_per_second": {program: num_images / median(program, "seconds") for program in programs},
        "cpu_seconds": {program: median(program, "cpu_seconds") for program in programs},
        "times_as_fast": {
            program: median(PEER_NAME, "seconds") / median(program, "seconds") for program in programs
        },
        "difference": {
            turn.program: {name: turn.metrics[name] - value for name, value in peer.metrics.items()}
            for turn in of_task
            if turn.program != PEER_NAME
        },
    }


if __name__ == "__main__":
    main()
