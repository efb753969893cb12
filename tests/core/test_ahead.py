"""Facts of kdx/core/ahead.py, with an Encoder whose pixels are the number that the image is."""

from __future__ import annotations

import functools
import threading
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kdx.core.ahead import REQUESTS, embed_ahead
from kdx.core.encoder import EMBED_BATCH, Embedder, Encoder, FloatArray, IntArray
from kdx.core.errors import DataError


class _Numbers(Encoder):
    spec: Any = SimpleNamespace(embed_dim=1)

    def __init__(self) -> None:
        self.preprocess: Any = self._pixels_of
        self.batches: list[int] = []

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        self.batches.append(len(pixels))
        return pixels

    def encode_text(self, tokens: IntArray) -> FloatArray:
        raise NotImplementedError

    def _pixels_of(self, image: bytes) -> FloatArray:
        if image == b"bad":
            raise DataError("is no image")
        return np.array([float(image)], dtype=np.float32)


def _read(row: int, bad: set[int], absent: set[int]) -> bytes:
    if row in absent:
        raise DataError("is not there")
    return b"bad" if row in bad else str(row).encode()


def test_images_come_in_their_order_and_bad_ones_are_told_by_their_number() -> None:
    encoder, total = _Numbers(), 3 * EMBED_BATCH + 5
    sources = [functools.partial(_read, row, {1, 70}, {2}) for row in range(total)]
    batches = list(embed_ahead(encoder, sources))
    rows = [row for batch in batches for row in batch.rows]
    assert rows == [row for row in range(total) if row not in (1, 2, 70)]
    assert [value for batch in batches for (value,) in batch.embeddings.tolist()] == rows
    assert {row: e.what for b in batches for row, e in b.refused.items()} == {
        1: "is no image",
        2: "is not there",
        70: "is no image",
    }
    assert encoder.batches == [EMBED_BATCH - 2, EMBED_BATCH - 1, EMBED_BATCH, 5]  # none is filled up


def test_a_batch_without_a_good_image_is_not_encoded() -> None:
    encoder = _Numbers()
    (batch,) = embed_ahead(encoder, [lambda: b"bad"] * 3)
    assert (batch.rows, batch.embeddings.shape, batch.size, encoder.batches) == ([], (0, 1), 3, [])


def test_later_images_are_read_while_one_batch_is_encoded() -> None:
    encoder = _Numbers()
    later = threading.Event()

    def read(row: int) -> bytes:
        if row == EMBED_BATCH:
            later.set()
        return str(row).encode()

    def encode(pixels: FloatArray) -> FloatArray:
        assert later.wait(10)
        return pixels

    encoder.encode_image = encode  # type: ignore[method-assign]
    sources = [functools.partial(read, row) for row in range(EMBED_BATCH + 1)]
    assert sum(batch.size for batch in embed_ahead(encoder, sources)) == EMBED_BATCH + 1


def test_a_fault_of_the_encoder_is_raised() -> None:
    encoder = _Numbers()

    def fail(pixels: FloatArray) -> FloatArray:
        raise DataError("gave NaN", where="image_encoder.onnx")

    encoder.encode_image = fail  # type: ignore[method-assign]
    with pytest.raises(DataError, match="gave NaN"):
        list(embed_ahead(encoder, [lambda: b"1"]))


def test_a_model_elsewhere_has_several_requests_at_a_time() -> None:
    together = threading.Barrier(REQUESTS, timeout=10)

    class Elsewhere:
        spec = SimpleNamespace(embed_dim=1)

        def embed_images(self, images: list[bytes]) -> FloatArray:
            together.wait()
            return np.array([[float(image)] for image in images], dtype=np.float32)

    total = REQUESTS * EMBED_BATCH
    sources = [functools.partial(_read, row, set(), set()) for row in range(total)]
    batches = list(embed_ahead(cast(Embedder, Elsewhere()), sources))
    assert [value for batch in batches for (value,) in batch.embeddings.tolist()] == list(range(total))
