"""Facts of kdx/core/tolerance.py, with images whose vector is their number."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, strategies as st

from kdx.core.encoder import EMBED_BATCH, Embedder, FloatArray
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.tolerance import embed_readable


class _Numbers:
    """An image is the bytes of its number; "bad" is refused, "down" breaks the server, "odd" the model."""

    spec = SimpleNamespace(embed_dim=1)

    def embed_images(self, images: Iterable[bytes]) -> FloatArray:
        given = list(images)
        for index, image in enumerate(given):
            if image == b"bad":
                raise DataError("is not an image", where=f"images[{index}]")
            if image == b"none":
                raise UsageError("is None", where=f"images[{index}]")
        if b"down" in given:
            raise SetupError("no server answers")
        if b"odd" in given:
            raise DataError("gave NaN", where="image_encoder.onnx")
        return np.array([[float(image)] for image in given], np.float32).reshape(-1, 1)


def _embed(images: list[bytes]) -> tuple[list[int], list[float], list[int]]:
    refused: list[int] = []
    readable = embed_readable(
        cast(Embedder, _Numbers()), cast(Any, iter(images)), len(images), lambda row, _: refused.append(row)
    )
    assert readable.embeddings.dtype == np.float32 and readable.embeddings.shape == (len(readable.rows), 1)
    return readable.rows, readable.embeddings[:, 0].tolist(), refused


@given(st.sets(st.integers(0, 2 * EMBED_BATCH + 9)), st.integers(0, 2 * EMBED_BATCH + 10))
def test_bad_images_are_named_and_all_others_embedded(bad: set[int], count: int) -> None:
    images = [b"bad" if row in bad else str(row).encode() for row in range(count)]
    good = [row for row in range(count) if row not in bad]
    assert _embed(images) == (good, good, sorted(row for row in bad if row < count))


@pytest.mark.parametrize(
    ("image", "kind"), [(b"down", SetupError), (b"odd", DataError), (b"none", UsageError)]
)
def test_what_is_no_fault_of_a_picture_is_raised(image: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        _embed([b"1", b"bad", image])


def test_refusing_may_end_it() -> None:
    def refuse(row: int, error: DataError) -> None:
        raise DataError(f"row {row}: {error.what}")

    with pytest.raises(DataError) as caught:
        embed_readable(cast(Embedder, _Numbers()), [b"1", b"bad"], 2, refuse)
    assert "row 1" in caught.value.what


def test_progress_counts_all_images() -> None:
    seen: list[tuple[int, int]] = []
    images = [b"bad"] * EMBED_BATCH + [b"1"] * 3
    embed_readable(
        cast(Embedder, _Numbers()),
        images,
        len(images),
        lambda row, error: None,
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert seen == [(EMBED_BATCH, EMBED_BATCH + 3), (EMBED_BATCH + 3, EMBED_BATCH + 3)]
