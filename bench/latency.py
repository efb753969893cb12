"""Latency of several runtimes side by side: what a user waits for, from encoded images or texts to embeddings.

The runtimes take turns within one run, so that a busy moment of the machine falls on all of them. A turn is two
calls of which the second is timed: the first takes the caches back that the runtime before it has filled. (A
pause between turns would not do: idle cores fall asleep, and waking them was measured as up to three times the
latency of a small model.)

A call is closed-loop: the next starts when the last has ended. So these are latencies of a machine that has
nothing else to do, not of a server under load. They hold all of a client's share: decoding and preprocessing
for a runtime in this process, sending and receiving for a server. `null_ms` is what the measurement itself adds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TypeVar

import numpy as np

from kdx.core.errors import UsageError
from kdx.core.progress import Progress, silent

T = TypeVar("T")
Embed = Callable[[list[T]], object]

WARM_UP = 3  # calls of each runtime at each batch size that are not counted
MIN_SAMPLES = 30
NULL = "null"  # the stand-in that does nothing


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one runtime at one batch size, for the whole batch.

    p50, p95, p99 are nearest-rank percentiles: values that were measured, the next higher one between two. With
    fewer than 100 samples p99 is the maximum. null_ms: the median of a call that does nothing, timed in the same
    turns. load_average: of the machine over one minute, the mean over the run; it counts this run itself.
    """

    p50: float
    p95: float
    p99: float
    min: float
    num_samples: int
    null_ms: float
    load_average: float


def measure_latency(
    encoders: Mapping[str, Embed[T]],
    items: Sequence[T],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    seconds: float = 20.0,
    progress: Progress = silent,
) -> dict[str, dict[str, dict[str, float]]]:
    """Times each runtime at each batch size in turn, for about `seconds` and at least MIN_SAMPLES rounds.

    encoders: what to call by the runtime's name, such as {"onnx": encoder.embed_images}. items: what a batch is made
    of, such as encoded files; every runtime gets the same ones in each round. Returns runtime → batch size (as a
    string) → the fields of Latency. Raises UsageError for nothing to measure; what a runtime raises is passed on.
    """
    _check(encoders, items, batch_sizes, seconds)
    calls: dict[str, Embed[T]] = {NULL: lambda _: None, **encoders}
    for embed in calls.values():
        for size in batch_sizes:
            for turn in range(WARM_UP):
                embed(_batch(items, size, turn))
    samples, loads = _take_turns(calls, items, batch_sizes, seconds, progress)
    null = {size: _percentile(samples[NULL, size], 50) for size in batch_sizes}
    return {
        name: {
            str(size): asdict(_summarise(samples[name, size], null[size], sum(loads) / len(loads)))
            for size in batch_sizes
        }
        for name in encoders
    }


def _take_turns(
    calls: Mapping[str, Embed[T]],
    items: Sequence[T],
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress,
) -> tuple[dict[tuple[str, int], list[float]], list[float]]:
    """Milliseconds by runtime and batch size, and the load average at each round."""
    samples: dict[tuple[str, int], list[float]] = {(name, size): [] for name in calls for size in batch_sizes}
    loads: list[float] = []
    order = list(samples)
    random = Random(0)
    started = time.perf_counter()
    share = 0.0
    while share < 1:
        random.shuffle(order)  # so that none always runs after the same neighbour
        for name, size in order:
            batch = _batch(items, size, len(loads))
            calls[name](batch)
            samples[name, size].append(_time(calls[name], batch))
        loads.append(os.getloadavg()[0])
        share = min((time.perf_counter() - started) / seconds, len(loads) / MIN_SAMPLES, 1.0)
        progress(round(100 * share), 100, f"{len(loads)} rounds")
    return samples, loads


def _time(embed: Embed[T], batch: list[T]) -> float:
    start = time.perf_counter()
    embed(batch)
    return (time.perf_counter() - start) * 1000


def _batch(items: Sequence[T], size: int, turn: int) -> list[T]:
    return [items[(turn * size + i) % len(items)] for i in range(size)]


def _summarise(samples: list[float], null_ms: float, load_average: float) -> Latency:
    return Latency(
        p50=_percentile(samples, 50),
        p95=_percentile(samples, 95),
        p99=_percentile(samples, 99),
        min=min(samples),
        num_samples=len(samples),
        null_ms=null_ms,
        load_average=load_average,
    )


def _percentile(samples: list[float], percent: int) -> float:
    return float(np.percentile(samples, percent, method="inverted_cdf"))  # nearest rank


def _check(
    encoders: Mapping[str, Embed[T]], items: Sequence[T], batch_sizes: Sequence[int], seconds: float
) -> None:
    if not encoders:
        raise UsageError("there is nothing to measure", remedy="give at least one model")
    if NULL in encoders:
        raise UsageError(
            f"a runtime is called {NULL!r}, which is the call that does nothing", remedy="rename it"
        )
    if not items:
        raise UsageError("there is nothing to send", remedy="give at least one image")
    if not batch_sizes or min(batch_sizes) < 1 or len(set(batch_sizes)) < len(batch_sizes):
        raise UsageError(
            f"batch sizes {list(batch_sizes)} are not distinct positive numbers", remedy="for example 1 and 8"
        )
    if not seconds > 0:
        raise UsageError(f"seconds = {seconds} is not positive", remedy="20 is usual")
