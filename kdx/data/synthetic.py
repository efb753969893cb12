"""A made image–text set: drawn scenes, captions from a grammar, a zero-shot task of 60 classes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from random import Random

from kdx.core.errors import SetupError, UsageError
from kdx.core.folders import write_atomic
from kdx.core.progress import Progress, silent
from kdx.core.provenance import cpu_count

from .drawing import render_jpeg
from .scene import CLASSES, TEMPLATES, random_scene, write_caption
from .set_folder import CLASSES as CLASSES_FILE, TEMPLATES as TEMPLATES_FILE, building_set
from .shards import Sample, write_shards

CHUNK = 250  # samples that one process draws at a time

Draw = Callable[[range], list[Sample]]
Map = Callable[[Draw, Iterable[range]], Iterable[list[Sample]]]


def write_synthetic(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    image_size: int = 64,
    progress: Progress = silent,
    overwrite: bool = False,
) -> None:
    """Draws a set: train-*.tar, val-*.tar, templates.txt and classes.txt (60 classes, such as "purple star").

    image_size: side in pixels. The same arguments give the same bytes on any number of processes (with the same
    Pillow). It draws in as many processes as there are cores and starts them afresh, so a script calls it under
    `if __name__ == "__main__"`. On an error nothing is left. Raises UsageError.
    """
    _check(num_train, num_val, seed, image_size)
    total = num_train + num_val
    with building_set(folder, overwrite=overwrite) as building, _process_map(total) as map_:
        done = 0
        for split, count in (("train", num_train), ("val", num_val)):
            samples = _samples(map_, split, count, seed, image_size)
            write_shards(building, split, _counted(samples, progress, done, total))
            done += count
        write_atomic(building / TEMPLATES_FILE, "\n".join(TEMPLATES) + "\n")
        write_atomic(building / CLASSES_FILE, "\n".join(CLASSES) + "\n")


def draw_sample(split: str, index: int, *, seed: int, image_size: int) -> Sample:
    """One sample of a set; depends on nothing but the arguments."""
    random = Random(f"{seed}/{split}/{index}")
    scene = random_scene(random)
    caption = write_caption(scene, random)
    image = render_jpeg(scene, image_size, random)
    return Sample(f"{split}{index:07d}", image, (caption,), scene.label)


def _check(num_train: int, num_val: int, seed: int, image_size: int) -> None:
    if num_train < 1 or num_val < 0:
        raise UsageError(
            f"{num_train} train and {num_val} val samples", remedy="ask for at least one train sample"
        )
    if seed < 0:
        raise UsageError(f"seed = {seed}", remedy="seeds count from 0")
    if not 16 <= image_size <= 1024:
        raise UsageError(f"image_size = {image_size}", remedy="choose 16 to 1024 pixels")


def _samples(map_: Map, split: str, count: int, seed: int, image_size: int) -> Iterator[Sample]:
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    for drawn in map_(partial(_draw_chunk, split, seed, image_size), chunks):
        yield from drawn


def _draw_chunk(split: str, seed: int, image_size: int, indices: range) -> list[Sample]:
    return [draw_sample(split, index, seed=seed, image_size=image_size) for index in indices]


def _counted(samples: Iterator[Sample], progress: Progress, done: int, total: int) -> Iterator[Sample]:
    for number, sample in enumerate(samples, done + 1):
        yield sample
        if number % CHUNK == 0 or number == total:
            progress(number, total)


@contextlib.contextmanager
def _process_map(total: int) -> Iterator[Map]:
    """`map` over processes, or in this one where that is faster."""
    if cpu_count() == 1 or total <= 2 * CHUNK:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that torch's threads hold
    executor = ProcessPoolExecutor(cpu_count(), mp_context=spawn, initializer=_leave_interrupts_to_the_parent)
    try:
        yield executor.map
    except BrokenProcessPool:
        raise SetupError(
            "a drawing process died",
            remedy='free memory; in a script, call it under if __name__ == "__main__"',
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
