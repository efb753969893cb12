"""Images are read and decoded while others are embedded, so that the encoder never waits for pixels.

Threads do it, as in training: Pillow, NumPy and the runtimes let others compute meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .encoder import EMBED_BATCH, Embedder, Encoder, FloatArray, batched
from .errors import DataError
from .images import ImageSource
from .preprocess import Preprocess
from .provenance import cpu_count
from .requests import item_index

T = TypeVar("T")

Source = Callable[[], ImageSource]  # reads an image; called in any thread
PixelsOf = Callable[[Preprocess, ImageSource], FloatArray]  # float32 [3, S, S]; called in any thread

BATCHES_AHEAD = 2  # decoded while one is embedded
REQUESTS = 4  # of a model elsewhere, at a time


@dataclass(frozen=True)
class EmbeddedBatch:
    """rows: which of the images, in their order; embeddings: float32 [len(rows), D]; refused: why, by row, of those
    that could not be read or decoded.
    """

    rows: list[int]
    embeddings: FloatArray
    refused: dict[int, DataError]

    @property
    def size(self) -> int:
        return len(self.rows) + len(self.refused)


def as_defined(preprocess: Preprocess, image: ImageSource) -> FloatArray:
    return preprocess(image)


def embed_ahead(
    embedder: Embedder, sources: Iterable[Source], pixels_of: PixelsOf = as_defined
) -> Iterator[EmbeddedBatch]:
    """Embeds images in their order, EMBED_BATCH at a time, and fills no batch up for those that are refused.

    pixels_of: by what an Encoder's images become pixels; an Embedder elsewhere does it itself.

    A source, or decoding, that raises DataError refuses its image alone. An error that is of no single image, such as
    a server's or a damaged model's, is raised.
    """
    numbered = enumerate(sources)
    if isinstance(embedder, Encoder):
        return _with_pixels(embedder, numbered, pixels_of)
    return _by_requests(embedder, numbered)


def _with_pixels(
    encoder: Encoder, sources: Iterator[tuple[int, Source]], pixels_of: PixelsOf
) -> Iterator[EmbeddedBatch]:
    with decoding_pool(cpu_count()) as pool:
        batches = (
            [(row, pool.submit(_decode, encoder.preprocess, source, pixels_of)) for row, source in group]
            for group in batched(sources, EMBED_BATCH)
        )
        for batch in running_ahead(batches, BATCHES_AHEAD):
            pixels = {row: decoded.result() for row, decoded in batch}
            refused = {row: each for row, each in pixels.items() if isinstance(each, DataError)}
            good = [each for each in pixels.values() if not isinstance(each, DataError)]
            empty = np.empty((0, encoder.spec.embed_dim), dtype=np.float32)
            embeddings = encoder.encode_image(np.stack(good)) if good else empty
            yield EmbeddedBatch([row for row in pixels if row not in refused], embeddings, refused)


def _decode(preprocess: Preprocess, source: Source, pixels_of: PixelsOf) -> FloatArray | DataError:
    try:
        return pixels_of(preprocess, source())
    except DataError as error:
        return error


def _by_requests(embedder: Embedder, sources: Iterator[tuple[int, Source]]) -> Iterator[EmbeddedBatch]:
    """Of an Embedder that takes encoded files."""
    with decoding_pool(REQUESTS) as pool:
        answers = (pool.submit(_ask, embedder, group) for group in batched(sources, EMBED_BATCH))
        for answer in running_ahead(answers, REQUESTS):
            yield answer.result()


def _ask(embedder: Embedder, group: list[tuple[int, Source]]) -> EmbeddedBatch:
    images: list[tuple[int, ImageSource]] = []
    refused: dict[int, DataError] = {}
    for row, source in group:
        try:
            images.append((row, source()))
        except DataError as error:
            refused[row] = error
    while images:
        try:
            embeddings = embedder.embed_images([image for _, image in images])
            return EmbeddedBatch([row for row, _ in images], embeddings, refused)
        except DataError as error:
            index = item_index(error, "images")
            if index is None:
                raise
            refused[images.pop(index)[0]] = error
    return EmbeddedBatch([], np.empty((0, embedder.spec.embed_dim), dtype=np.float32), refused)


def running_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The items in their order, each made when `count` others are still to come before it."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


@contextlib.contextmanager
def decoding_pool(num_threads: int) -> Generator[ThreadPoolExecutor]:
    """When its block ends early, what has not begun is dropped."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="kdx-decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
