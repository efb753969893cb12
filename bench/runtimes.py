"""Runtimes side by side: each model in a process of its own, one thread each, in turn.

Only one process computes at a time, and all get the same time, so that a busy moment of the machine falls on all. What
is timed is the encoder alone, from pixels or tokens to embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdx.core.cpu import instruction_sets
from kdx.core.encoder import FloatArray
from kdx.core.errors import UsageError
from kdx.core.folders import read_json, read_manifest
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance
from kdx.evaluate.speed import Case, SpeedProcess, take_turns
from kdx.export.comparison import cosine_distances
from kdx.runtime.exported_model import KIND, open_exported_model

CASES = (Case(1), Case(8), Case(1, 12), Case(1, 77), Case(8, 12))
MIN_SAMPLES = 5
TOLD = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


def compare_runtimes(
    models: Sequence[Path],
    *,
    cases: Sequence[Case] = CASES,
    seconds: float = 60.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The models of one student after another, for about `seconds` and at least MIN_SAMPLES calls of each case.

    models: checkpoints or runs, and exported models made from them. Returns, as JSON, `students`: for each its name and
    `models`, the first of which is the checkpoint; of each `runtime`, `ms` (by case, as Timing.summary), `ratio` (the
    checkpoint's minimum by its own), `max_abs` and `cosine_distance` to the checkpoint's answers, `parity`, `bytes`,
    `peak_mib`; the load average over each student's run; `provenance`.

    Raises UsageError for an exported model without its checkpoint.
    """
    students = _by_student(models)
    rows = [
        _compare(name, members, cases, seconds, progress, (done, len(students)))
        for done, (name, members) in enumerate(students.items())
    ]
    known = instruction_sets()
    return {
        "threads": 1,
        "instruction_sets": [name for name in TOLD if name in known],
        "students": rows,
        "provenance": collect_provenance(shipped=True),
    }


def runtimes_table(document: dict[str, Any]) -> str:
    """The document as Markdown: a table a student, of times relative to PyTorch's."""
    provenance = document["provenance"]
    lines = [
        f"{provenance['cpu']}, {provenance['cpu_count']} cores; {', '.join(document['instruction_sets'])}.",
        f"One thread. {', '.join(f'{k} {v}' for k, v in provenance['packages'].items() if k in SHOWN)}.",
    ]
    for student in document["students"]:
        cases = list(student["models"][0]["ms"])
        header = ["runtime", *cases, "max abs", "1 − cosine", "gate", "MB", "peak MiB"]
        lines += ["", f"**{student['name']}** (load average {student['load_average']:.1f})", ""]
        lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        for row in student["models"]:
            times = [
                f"{row['ms'][case]['min']:.1f} ms"
                + (f" ({row['ratio'][case]:.2f}×)" if row["parity"] else "")
                for case in cases
            ]
            cells = [row["runtime"], *times, f"{row['max_abs']:.1e}", f"{row['cosine_distance']:.1e}"]
            cells += [row["parity"] or "", f"{row['bytes'] / 1e6:.1f}", f"{row['peak_mib']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


SHOWN = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino")


def _by_student(models: Sequence[Path]) -> dict[str, list[Path]]:
    """Checkpoint first, by model digest in the order given."""
    exported: dict[str, list[Path]] = {}
    checkpoints: dict[str, tuple[str, Path]] = {}
    for path in models:
        if read_manifest(path).kind == KIND:
            exported.setdefault(open_exported_model(path).spec.model_digest, []).append(path)
        else:
            spec = read_json(_checkpoint(path) / "config.json")["spec"]
            checkpoints[spec["model_digest"]] = (spec["name"], path)
    for digest, paths in exported.items():
        if digest not in checkpoints:
            raise UsageError(
                "the checkpoint that it was exported from is not among the models",
                where=paths[0],
                remedy="give that too: times are told relative to it",
            )
    students: dict[str, list[Path]] = {}
    for digest, (name, path) in checkpoints.items():
        label = name if name not in students else f"{name} ({path.name})"
        students[label] = [path, *exported.get(digest, [])]
    return students


def _checkpoint(path: Path) -> Path:
    return path / "student" if read_manifest(path).kind == "run" else path


def _compare(
    name: str,
    members: Sequence[Path],
    cases: Sequence[Case],
    seconds: float,
    progress: Progress,
    students: tuple[int, int],
) -> dict[str, Any]:
    """members: the checkpoint, then its exported models. students: how many are done, of how many."""
    past, of = students

    def told(done: int, total: int, note: str = "") -> None:
        progress(past * total + done, of * total, name)

    with ExitStack() as stack:
        processes = [stack.enter_context(SpeedProcess(path)) for path in members]
        answers = [[process.embeddings(case) for case in cases] for process in processes]
        before = os.getloadavg()[0]
        timings = take_turns(
            processes,
            cases,
            seconds=seconds / len(members),
            min_samples=MIN_SAMPLES,
            progress=told,
        )
        load = (before + os.getloadavg()[0]) / 2
        peaks = [process.peak_mib() for process in processes]
    rows = [
        {
            **_told(path),
            "ms": {case.name: timings[row][case].summary() for case in cases},
            "ratio": {
                case.name: min(timings[0][case].samples) / min(timings[row][case].samples) for case in cases
            },
            **_difference(answers[0], answers[row]),
            "peak_mib": peaks[row],
        }
        for row, path in enumerate(members)
    ]
    return {"name": name, "load_average": load, "models": rows}


def _told(path: Path) -> dict[str, Any]:
    """What a folder says of itself: runtime, the gate's verdict (none for a checkpoint), bytes of its weights."""
    if read_manifest(path).kind != KIND:
        weights = _checkpoint(path) / "model.safetensors"
        return {"runtime": "PyTorch eager", "parity": None, "bytes": weights.stat().st_size}
    model = open_exported_model(path)
    return {
        "runtime": f"{model.format.name} {model.precision}",
        "parity": model.parity()["verdict"],
        "bytes": model.encoder_bytes(),
    }


def _difference(expected: Sequence[FloatArray], answers: Sequence[FloatArray]) -> dict[str, float]:
    """The largest over all cases."""
    pairs = list(zip(expected, answers, strict=True))
    distances = [cosine_distances(a, b) for a, b in pairs]
    return {
        "max_abs": float(max(np.abs(a - b).max() for a, b in pairs)),
        "cosine_distance": float(max(0.0, *(distance.max() for distance in distances))),
    }
