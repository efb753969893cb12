"""Seconds a step of distillation: kdx beside open_clip's trainer, on the same pairs and cores, taking turns.

Each program runs in a process of its own, with weights drawn at random, which change no time. Of kdx a step is what a
longer run takes more than a shorter one, so that starting, reading the shards and sealing count for neither; of
open_clip it is the median that its log tells, without the first steps.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w

from kdx.core.errors import SetupError, UsageError
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance
from kdx.core.scratch import scratch_folder
from kdx.data.sampling import spread
from kdx.data.shards import ShardSet, open_split
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.foreign.open_clip_layout import save_open_clip

from .peer import peer_command, told_error

CLIP_KD = {"crd": 0.5, "icl": 1.0, "fd": 3.906}  # what is weighed how changes no time
STUDENT_ALONE, FROM_CACHE = "kdx, no teacher", "kdx, CLIP-KD from the cache"
ONLINE = "kdx, CLIP-KD with the teacher online"
PEER_ALONE, PEER_DISTILLS = "open_clip, no teacher", "open_clip, --distill-model"
RATIOS = {
    "open_clip's distiller ÷ kdx from the cache": (PEER_DISTILLS, FROM_CACHE),
    "open_clip ÷ kdx, no teacher": (PEER_ALONE, STUDENT_ALONE),
    "open_clip's distiller ÷ kdx with the teacher online": (PEER_DISTILLS, ONLINE),
    "kdx from the cache ÷ kdx, no teacher": (FROM_CACHE, STUDENT_ALONE),
}
FIRST_STEPS = 2  # of open_clip's log, in which memory is found and kernels are chosen
SECONDS_A_STEP = re.compile(r"Batch \(t\): ([0-9.]+)")
CAPTIONS_READ = 1000
PEER_PRECISIONS = {"fp32": "fp32", "bf16": "amp_bf16"}
KDX = "from kdx.cli import main; main()"
PEER = """
import open_clip
open_clip.add_model_config(sys.argv.pop(1))
runpy.run_module("open_clip_train.main", run_name="__main__")
"""


@dataclass(frozen=True)
class _Setting:
    """What the programs share. peer: a Python with open_clip_torch[training]."""

    data: Path
    student: str
    teacher: str
    precision: str
    batch_size: int
    steps: int
    folder: Path
    peer: Path | None


def measure_training(
    data: Path,
    *,
    student: str = "ViT-T-16",
    teacher: str = "ViT-B-16",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 16,
    steps: int = 12,
    turns: int = 3,
    peer: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains the student on the train shards in `data`, `steps` steps a turn, by each program.

    student, teacher: names of architectures. peer: the Python of an environment with `open_clip_torch[training]`;
    without it open_clip is left out. Returns, as JSON, `seconds_a_step` (`median` and `turns` by program),
    `pairs_per_second`, `ratios` (medians of the turns'), `cache` (`pairs` and `seconds` of building it), `data` (image
    bytes, caption tokens), `load_average`, `provenance`.

    Raises UsageError for too few pairs, SetupError where a program fails.
    """
    samples = open_split(data, "train")
    needed = batch_size * (FIRST_STEPS + 2)
    if len(samples) < needed:
        raise UsageError(f"there are {len(samples)} pairs", where=data, remedy=f"give at least {needed}")
    load = os.getloadavg()[0]
    with scratch_folder() as folder:
        setting = _Setting(data, student, teacher, precision, batch_size, steps, folder, peer)
        _save_models(setting)
        cache_seconds = _build_cache(setting)
        programs = _programs(setting)
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(turns):
            for number, (name, seconds_a_step) in enumerate(programs.items()):
                progress(turn * len(programs) + number, turns * len(programs), name)
                taken[name].append(seconds_a_step())
    progress(turns * len(programs), turns * len(programs))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {
        "student": student,
        "teacher": teacher,
        "precision": precision,
        "batch_size": batch_size,
        "steps": steps,
        "seconds_a_step": {name: {"median": medians[name], "turns": taken[name]} for name in programs},
        "pairs_per_second": {name: batch_size / seconds for name, seconds in medians.items()},
        "ratios": {name: _ratio(taken, *pair) for name, pair in RATIOS.items() if set(pair) <= set(taken)},
        "cache": {"pairs": len(samples), "seconds": cache_seconds},
        "data": _describe(samples),
        "load_average": load,
        "provenance": collect_provenance(shipped=True),
    }


def training_table(document: Mapping[str, Any]) -> str:
    """The document as Markdown."""
    lines = ["| | seconds a step | pairs/s |", "|---|---|---|"]
    for name, row in document["seconds_a_step"].items():
        lines.append(f"| {name} | {row['median']:.3g} | {document['pairs_per_second'][name]:.3g} |")
    lines += ["", *(f"{name}: {value:.2f}" for name, value in document["ratios"].items()), ""]
    tokens, provenance = document["data"]["caption_tokens"], document["provenance"]
    lines.append(
        f"{document['teacher']} → {document['student']}, {document['precision']}, batches of "
        f"{document['batch_size']}; captions of {tokens['median']:.0f} tokens "
        f"({tokens['p95']:.0f} at the 95th percentile), images of "
        f"{document['data']['image_bytes'] / 1000:.0f} kB; the cache of {document['cache']['pairs']} pairs took "
        f"{document['cache']['seconds']:.0f} s; {provenance['cpu']}, {provenance['cpu_count']} cores, load average "
        f"before {document['load_average']:.1f}."
    )
    return "\n".join(lines)


def _ratio(taken: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    return statistics.median(a / b for a, b in zip(taken[above], taken[below], strict=True))


def _describe(samples: ShardSet) -> dict[str, Any]:
    rows = spread(len(samples), CAPTIONS_READ)
    tokens = [len(clip_tokenizer().encode(samples.captions(row)[0], 77)) for row in rows]
    return {
        "image_bytes": statistics.fmean(len(samples.image(row)) for row in rows),
        "caption_tokens": {"median": float(np.median(tokens)), "p95": float(np.percentile(tokens, 95))},
    }


def _save_models(setting: _Setting) -> None:
    for name in {setting.student, setting.teacher}:
        architecture = read_architecture(name)
        place = setting.folder / name
        save_checkpoint(place, build_model(architecture, 0), architecture, clip_tokenizer())
        if setting.peer is not None:
            save_open_clip(open_checkpoint(place), setting.folder / f"{name}-open-clip")


def _programs(setting: _Setting) -> dict[str, Callable[[], float]]:
    """By name, each a function that runs it once and returns the seconds of a step."""
    programs: dict[str, Callable[[], float]] = {
        STUDENT_ALONE: lambda: _kdx_step(setting, STUDENT_ALONE),
        FROM_CACHE: lambda: _kdx_step(setting, FROM_CACHE),
        ONLINE: lambda: _kdx_step(setting, ONLINE),
    }
    if setting.peer is not None:
        programs |= {
            PEER_ALONE: lambda: _peer_step(setting, distils=False),
            PEER_DISTILLS: lambda: _peer_step(setting, distils=True),
        }
    return programs


def _build_cache(setting: _Setting) -> float:
    """Seconds, with starting and a step of training."""
    started = time.monotonic()
    _run_kdx(setting, 1, FROM_CACHE)
    return time.monotonic() - started


def _kdx_step(setting: _Setting, program: str) -> float:
    short = max(1, setting.steps // 2)
    seconds: list[float] = []
    for steps in (short, short + setting.steps):
        started = time.monotonic()
        _run_kdx(setting, steps, program)
        seconds.append(time.monotonic() - started)
    return (seconds[1] - seconds[0]) / setting.steps


def _run_kdx(setting: _Setting, steps: int, program: str) -> None:
    recipe: dict[str, Any] = {
        "student": setting.student,
        "steps": steps,
        "batch_size": setting.batch_size,
        "precision": setting.precision,
        "optimizer": {"warmup_steps": 0},
    }
    if program != STUDENT_ALONE:
        recipe |= {"teacher": setting.teacher, "objective": CLIP_KD}
    file, out = setting.folder / "recipe.toml", setting.folder / "run"
    file.write_text(tomli_w.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-c", KDX, "distill", file, "--data", setting.data, "--out", out]
    if program != STUDENT_ALONE:
        command += ["--teacher", setting.folder / setting.teacher]
        command += ["--teacher-online"] if program == ONLINE else ["--cache", setting.folder / "cache"]
    _run(command, "kdx distill")
    shutil.rmtree(out)


def _peer_step(setting: _Setting, *, distils: bool) -> float:
    assert setting.peer is not None
    student, teacher = (setting.folder / f"{name}-open-clip" for name in (setting.student, setting.teacher))
    shards = [str(shard.path) for shard in open_split(setting.data, "train").shards]
    total = setting.batch_size * (FIRST_STEPS + setting.steps)
    command = peer_command(
        setting.peer, PEER, student,
        "--model", setting.student, "--train-data", "::".join(shards), "--dataset-type", "webdataset",
        "--train-num-samples", total, "--batch-size", setting.batch_size, "--workers", 1,
        "--precision", PEER_PRECISIONS[setting.precision],
        "--epochs", 1, "--warmup", 1, "--log-every-n-steps", 1, "--save-frequency", 0, "--report-to", "",
        "--logs", setting.folder / "logs", "--name", "peer", "--delete-previous-checkpoint",
    )  # fmt: skip
    if distils:
        weights = teacher / "open_clip_model.safetensors"
        command += ["--distill-model", setting.teacher, "--distill-pretrained", str(weights)]
    output = _run(command, "open_clip_train")
    shutil.rmtree(setting.folder / "logs", ignore_errors=True)
    steps = [float(found) for found in SECONDS_A_STEP.findall(output)][FIRST_STEPS:]
    if not steps:
        raise SetupError(
            "open_clip_train logged no step", where=setting.peer, remedy=f"it said: {told_error(output)}"
        )
    return statistics.median(steps)


def _run(command: Sequence[object], name: str) -> str:
    """What it prints on both streams. Raises SetupError when it fails."""
    try:
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise SetupError(
            f"{name} does not start: {error}", where=str(command[0]), remedy="check the path"
        ) from None
    if done.returncode:
        raise SetupError(
            f"{name} failed: {told_error(done.stdout)}",
            where=str(command[0]),
            remedy="run it alone to see why",
        )
    return done.stdout
