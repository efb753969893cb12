"""Which calibration method, and which layers in float: found by trying, on calibration data that set no range.

The child process of quantization.py, since calibrating needs memory by the gigabyte: `python -m
kdx.export.quantization_search JOB.json ANSWER.json FAULT.json`. It quantises both towers of a folder.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import FloatArray
from kdx.core.prompts import class_vectors
from kdx.core.provenance import cpu_count
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS
from kdx.runtime.onnx import (
    Session,
    import_onnxruntime,
    open_session,
)

from .child import answer_parent, limit_memory
from .comparison import centred_distances, cosine_distances
from .quantization_graph import METHODS, Plan, collect_ranges, prepare_graph, quantize_graph

BATCH = 8  # of calibration: Entropy and Percentile hold all activations of a batch
HISTOGRAM_SAMPLES = 128  # of them a histogram's range is as good as of more, and each costs 0.1 s in numpy
DAMAGE_SAMPLES = 32  # on which the effect of one layer is measured
TIMED_CALLS = 15

# What the search asks of data that it has not calibrated on: less than what the gate allows, which sees other samples.
CENTRED_COSINE_DISTANCE = 0.008  # the median
COSINE_DISTANCE = 0.075  # of any embedding
TIE = 0.02  # how much higher fp32 must score its own choice than int8's for the two to differ
DIFFERING = 0.005  # share of choices

Batch = npt.NDArray[Any]


@dataclass(frozen=True)
class Quality:
    """Beside fp32: cosine distances of embeddings, and the share of choices that differ by more than a tie."""

    centred_cosine_distance: float
    cosine_distance: float
    differing: float

    @property
    def suffices(self) -> bool:
        return (
            self.centred_cosine_distance <= CENTRED_COSINE_DISTANCE
            and self.cosine_distance <= COSINE_DISTANCE
            and self.differing <= DIFFERING
        )

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Higher is better. Among those that suffice a choice more or less is chance, and the angles decide."""
        return self.suffices, 0.0 if self.suffices else -self.differing, -self.centred_cosine_distance

    def to_dict(self) -> dict[str, float]:
        return {
            "centred_cosine_distance_p50": float(f"{self.centred_cosine_distance:.3g}"),
            "cosine_distance_max": float(f"{self.cosine_distance:.3g}"),
            "differing_choices": float(f"{self.differing:.3g}"),
        }


@dataclass(frozen=True)
class Tower:
    """One graph and its data: batches that set the ranges, and held-back ones to judge by.

    judge: from the embeddings of all held-back batches to their quality.
    """

    name: str
    source: Path
    out: Path
    input: str
    output: str
    calibration: Sequence[Batch]
    held_back: Sequence[Batch]
    judge: Callable[[FloatArray], Quality]

    def embed(self, session: Session, batches: Sequence[Batch]) -> FloatArray:
        return _embed(session, self.output, self.input, batches)


def quantize_tower(tower: Tower, target: str, scratch: Path) -> dict[str, Any]:
    """Writes the best graph found and returns what was measured, as JSON."""
    scratch.mkdir()
    prepared = scratch / "prepared.onnx"
    plan = prepare_graph(tower.source, prepared)
    ranges = {method: _ranges(tower, prepared, plan, method) for method in METHODS}
    attempt = _Attempts(tower, target, prepared, ranges, plan)
    compared = {method: attempt.quality(method) for method in METHODS}
    method = max(METHODS, key=lambda name: compared[name].rank)
    found = _leave_in_float(attempt, method, compared[method])
    attempt.write(tower.out, method, found)
    record: dict[str, Any] = {
        "method": method,
        "compared": {name: quality.to_dict() for name, quality in compared.items()},
        "quantized_layers": len(plan.layers) - len(found.floating),
        "float_layers": sorted(found.floating),
        "elementwise": found.between,
        **found.quality.to_dict(),
    }
    if target == "cpu":
        record["speedup_batch1"] = round(_speedup(tower), 2)
    return record


@dataclass(frozen=True)
class _Found:
    floating: frozenset[str]
    between: bool
    quality: Quality


class _Attempts:
    """Quantises one graph in variants and judges them."""

    def __init__(
        self, tower: Tower, target: str, prepared: Path, ranges: dict[str, Path], plan: Plan
    ) -> None:
        self.tower, self.target, self.plan = tower, target, plan
        self._prepared, self._ranges = prepared, ranges

    def quality(
        self, method: str, floating: frozenset[str] = frozenset(), between: bool | None = None
    ) -> Quality:
        between = self.has_between if between is None else between
        layers = [name for name in self.plan.layers if name not in floating]
        session = self._session(method, self._nodes(layers, between))
        return self.tower.judge(self.tower.embed(session, self.tower.held_back))

    def damage(self, method: str, layer: str, batches: Sequence[Batch], reference: FloatArray) -> float:
        """Mean cosine distance of centred embeddings when this layer alone is quantised."""
        answer = self.tower.embed(self._session(method, [layer]), batches)
        return float(centred_distances(reference, answer).mean())

    def write(self, out: Path, method: str, found: _Found) -> None:
        layers = [name for name in self.plan.layers if name not in found.floating]
        nodes = self._nodes(layers, found.between)
        quantize_graph(self._prepared, out, self._ranges[method], self.target, nodes)

    @property
    def has_between(self) -> bool:
        return self.target == "cpu" and bool(self.plan.between)

    def _nodes(self, layers: Sequence[str], between: bool) -> list[str]:
        return [*layers, *(self.plan.between if between else ()), *self.plan.folded]

    def _session(self, method: str, nodes: Sequence[str]) -> Session:
        path = self._prepared.with_name("attempt.onnx")
        quantize_graph(self._prepared, path, self._ranges[method], self.target, nodes)
        return _open(path)


def _leave_in_float(attempt: _Attempts, method: str, quality: Quality) -> _Found:
    """Quantises less until the quality suffices: without the layers that hurt most, then without elementwise nodes too.

    How many layers stay in float doubles from 1 to half of them, so that the number of attempts is bounded. Elementwise
    nodes are given up last, since without them EfficientNet-B0 is slower than in fp32.
    """
    tried = [_Found(frozenset(), attempt.has_between, quality)]
    if quality.suffices:
        return tried[0]
    layers = _by_damage(attempt, method)
    for between in (True, False) if attempt.has_between else (False,):
        for count in (0, *_doubling(len(layers) // 2)):
            floating = frozenset(layers[:count])
            if not floating and between == attempt.has_between:
                continue  # the first attempt
            found = _Found(floating, between, attempt.quality(method, floating, between))
            if found.quality.suffices:
                return found
            tried.append(found)
    return max(tried, key=lambda found: found.quality.rank)


def _doubling(limit: int) -> Iterator[int]:
    """1, 2, 4 … up to the limit."""
    count = 1
    while count <= limit:
        yield count
        count *= 2


def _by_damage(attempt: _Attempts, method: str) -> list[str]:
    """The layers, the most harmful first."""
    batches = list(_first(attempt.tower.held_back, DAMAGE_SAMPLES))
    reference = attempt.tower.embed(_open(attempt.tower.source), batches)
    damages = {layer: attempt.damage(method, layer, batches, reference) for layer in attempt.plan.layers}
    return sorted(damages, key=damages.__getitem__, reverse=True)


def _ranges(tower: Tower, prepared: Path, plan: Plan, method: str) -> Path:
    batches = tower.calibration if method == "MinMax" else list(_first(tower.calibration, HISTOGRAM_SAMPLES))
    return collect_ranges(prepared, plan, method, tower.input, batches)


def _first(batches: Sequence[Batch], samples: int) -> Iterator[Batch]:
    """So many batches, evenly spaced, that they hold at least that many samples, where there are as many."""
    total = sum(map(len, batches))
    step = max(1, total // samples)
    yield from batches[::step]


# Running graphs


def _open(path: Path, num_threads: int | None = None) -> Session:
    return open_session(import_onnxruntime(), path, num_threads or cpu_count())


def _embed(session: Session, output: str, input_: str, batches: Sequence[Batch]) -> FloatArray:
    return np.concatenate([session.run([output], {input_: batch})[0] for batch in batches])


def _speedup(tower: Tower) -> float:
    """fp32 ÷ int8, seconds of one sample on one thread, the best of calls in turn: a busy machine slows some."""
    sessions = [_open(path, 1) for path in (tower.source, tower.out)]
    sample = tower.held_back[len(tower.held_back) // 2][:1]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_CALLS):
        for session, taken in zip(sessions, seconds, strict=True):
            session.run([tower.output], {tower.input: sample})  # takes the caches back
            started = time.perf_counter()
            session.run([tower.output], {tower.input: sample})
            taken.append(time.perf_counter() - started)
    return min(seconds[0]) / min(seconds[1])


# The process


@dataclass(frozen=True)
class _Texts:
    """tokens: int32 [N, L], padded; lengths: [N] of each without padding that the tower can do without."""

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]

    def batches(self) -> list[Batch]:
        """Of texts of one length, without padding: a range should hold what texts are, not what pads them."""
        return [
            self.tokens[rows[start : start + BATCH], : self.lengths[rows[0]]]
            for rows in self._groups()
            for start in range(0, len(rows), BATCH)
        ]

    def in_order(self, features: FloatArray) -> FloatArray:
        """The embeddings of all batches, as the texts were given."""
        ordered = np.empty_like(features)
        ordered[np.concatenate(self._groups())] = features
        return ordered

    def _groups(self) -> list[npt.NDArray[np.intp]]:
        return [np.flatnonzero(self.lengths == length) for length in np.unique(self.lengths)]


def _towers(job: dict[str, Any]) -> list[Tower]:
    """Both towers, each judged by the choices that it makes together with the other one in fp32.

    The last `choices` of the held-back texts are what images choose from: prompts, `templates` for each class, or
    captions, where that is 0.
    """
    data = Path(job["data"])
    pixels = {split: np.load(data / f"{split}_pixels.npy", mmap_mode="r") for split in ("train", "held")}
    images = {
        split: [array[start : start + BATCH] for start in range(0, len(array), BATCH)]
        for split, array in pixels.items()
    }
    with np.load(data / "texts.npz") as arrays:
        texts = {split: _Texts(arrays[split], arrays[f"{split}_lengths"]) for split in ("train", "held")}
    expected = {
        name: _embed(_open(Path(job["source"]) / f"{name}_encoder.onnx"), output, input_, batches)
        for name, output, input_, batches in (
            ("image", IMAGE_FEATURES, PIXELS, images["held"]),
            ("text", TEXT_FEATURES, TOKENS, texts["held"].batches()),
        )
    }

    def scores(features: dict[str, FloatArray]) -> FloatArray:
        vectors = texts["held"].in_order(features["text"])[-job["choices"] :]
        if job["templates"]:
            vectors = class_vectors(vectors, job["templates"])
        return features["image"] @ vectors.T

    reference = scores(expected)
    best = reference.max(axis=1)

    def judge(name: str, answer: FloatArray) -> Quality:
        chosen = scores({**expected, name: answer}).argmax(axis=1)
        regret = best - reference[np.arange(len(best)), chosen]
        return Quality(
            centred_cosine_distance=float(np.median(centred_distances(expected[name], answer))),
            cosine_distance=float(cosine_distances(expected[name], answer).max()),
            differing=float((regret > TIE).mean()),
        )

    return [
        Tower(
            name=name,
            source=Path(job["source"]) / f"{name}_encoder.onnx",
            out=Path(job["out"]) / f"{name}_encoder.onnx",
            input=input_,
            output=output,
            calibration=calibration,
            held_back=held_back,
            judge=functools.partial(judge, name),
        )
        for name, input_, output, calibration, held_back in (
            ("image", PIXELS, IMAGE_FEATURES, images["train"], images["held"]),
            ("text", TOKENS, TEXT_FEATURES, texts["train"].batches(), texts["held"].batches()),
        )
    ]


def _search(job_file: Path, answer_file: Path) -> None:
    job = json.loads(job_file.read_text(encoding="utf-8"))
    limit_memory(job["memory"])
    records = {
        tower.name: quantize_tower(tower, job["target"], job_file.parent / tower.name)
        for tower in _towers(job)
    }
    answer_file.write_text(json.dumps(records), encoding="utf-8")


if __name__ == "__main__":
    job, answer, fault = map(Path, sys.argv[1:4])
    sys.exit(answer_parent(lambda: _search(job, answer), fault, doing="quantise the model"))
