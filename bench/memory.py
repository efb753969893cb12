"""Peak memory of one model, measured in a process that does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from kdx.core.bound_pool import bound_pool
from kdx.core.errors import SetupError
from kdx.evaluate.speed import peak_of_this_process


def peak_memory(model: str, images: Sequence[bytes], texts: Sequence[str]) -> float:
    """MiB that a fresh process holds at its peak to open `model` and embed each of the two batches twice.

    Python and the libraries are in it: it is what one process with this model needs. A URL would tell of the
    client alone. Raises what kdx.load and the model raise, and SetupError where the process is killed.
    """
    with bound_pool(1) as pool:
        try:
            return pool.submit(_embed, model, list(images), list(texts)).result()
        except BrokenProcessPool:
            raise SetupError(
                "the process that measures memory was killed", where=model, remedy="give a smaller --batch"
            ) from None


def _embed(model: str, images: list[bytes], texts: list[str]) -> float:
    import kdx

    with kdx.load(model) as embedder:
        for _ in range(2):
            embedder.embed_images(images)
            if texts:
                embedder.embed_texts(texts)
    return peak_of_this_process()
