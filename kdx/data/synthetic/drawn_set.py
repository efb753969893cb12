"""Writing a drawn set, by as many processes as there are cores."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from random import Random

from kdx.core.bound_pool import bound_pool
from kdx.core.errors import SetupError, UsageError
from kdx.core.folders import write_atomic
from kdx.core.progress import Progress, silent
from kdx.core.provenance import cpu_count
from kdx.data.set_folder import CLASSES as CLASSES_FILE, TEMPLATES as TEMPLATES_FILE, building_set
from kdx.data.shards import Sample, write_shards

from .drawing import draw_scene
from .scene import CLASSES, TEMPLATES, random_scene, write_caption

CHUNK = 250  # samples that one process draws at a time


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
    Pillow). Processes are started afresh, so a script calls it under `if __name__ == "__main__"`. On an error
    nothing is left. Raises UsageError for arguments that cannot be.
    """
    if num_train < 1 or num_val < 0:
        raise UsageError(f"{num_train} train, {num_val} val samples", remedy="ask for some to train on")
    if seed < 0:
        raise UsageError(f"seed = {seed}", remedy="seeds count from 0")
    if not 16 <= image_size <= 1024:
        raise UsageError(f"image_size = {image_size}", remedy="choose 16 to 1024 pixels")
    with building_set(folder, overwrite=overwrite) as building, _process_map(num_train + num_val) as map_:
        done = 0

        def samples(split: str, count: int) -> Iterator[Sample]:
            nonlocal done
            for sample in map_(partial(draw_sample, split, seed=seed, image_size=image_size), range(count)):
                yield sample
                done += 1
                progress(done, num_train + num_val)

        for split, count in (("train", num_train), ("val", num_val)):
            write_shards(building, split, samples(split, count))
        write_atomic(building / TEMPLATES_FILE, "\n".join(TEMPLATES) + "\n")
        write_atomic(building / CLASSES_FILE, "\n".join(CLASSES) + "\n")


def draw_sample(split: str, index: int, *, seed: int, image_size: int) -> Sample:
    """One sample of a set, its image a JPEG; depends on nothing but the arguments."""
    random = Random(f"{seed}/{split}/{index}")
    scene = random_scene(random)
    caption = write_caption(scene, random)
    image = io.BytesIO()
    draw_scene(scene, image_size, random).save(image, "JPEG", quality=90, subsampling=0)
    return Sample(f"{split}{index:07d}", image.getvalue(), (caption,), scene.label)


@contextlib.contextmanager
def _process_map(total: int) -> Iterator[Callable[..., Iterable[Sample]]]:
    """`map` over processes, or in this one where that is faster."""
    if cpu_count() == 1 or total <= 2 * CHUNK:
        yield map
        return
    try:
        with bound_pool(cpu_count()) as pool:
            yield partial(pool.map, chunksize=CHUNK)
    except BrokenProcessPool:
        raise SetupError(
            "a drawing process died",
            remedy='free memory; in a script, call it under if __name__ == "__main__"',
        ) from None
