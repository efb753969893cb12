"""Facts of serve/search.py with vectors that are known: tests/serve/test_served.py asks a real server."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kdx.core.dimensions import first_dimensions
from kdx.core.encoder import Embedder, FloatArray
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.serve.search import ExactSearch

DEGREES = {"north": 90, "east": 0}


class _Compass:
    """An image is a direction in degrees; "broken" is refused, and "down" breaks the encoder."""

    spec = SimpleNamespace(name="compass", embed_dim=2, widths=(1, 2))

    def __init__(self) -> None:
        self.asked: list[int] = []

    def embed_images(self, images: Iterable[Any]) -> FloatArray:
        directions = list(images)
        self.asked.append(len(directions))
        if b"broken" in directions:
            raise DataError("is not an image", where=f"images[{directions.index(b'broken')}]")
        if b"down" in directions:
            raise SetupError("no server answers")
        return _vectors([float(direction) for direction in directions])

    def embed_texts(self, texts: Sequence[str], *, dimensions: int | None = None) -> FloatArray:
        return first_dimensions(_vectors([DEGREES[text] for text in texts]), dimensions)


def _vectors(degrees: list[float]) -> FloatArray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def _index(images: dict[str, bytes], **options: Any) -> ExactSearch:
    return ExactSearch(cast(Embedder, _Compass()), cast(Any, images), **options)


def test_the_nearest_come_first_with_their_cosines() -> None:
    index = _index({"a": b"10", "b": b"90", "c": b"60", "d": b"180"})
    hits = index.find("north", 3)
    assert [name for name, _ in hits] == ["b", "c", "a"]
    assert [cosine for _, cosine in hits] == pytest.approx([1, 3**0.5 / 2, np.sin(np.radians(10))], abs=1e-6)
    assert [name for name, _ in index.find("east", 1)] == ["a"]


def test_an_index_may_hold_the_first_dimensions_alone() -> None:
    """Of the compass's two numbers the first says how far east."""
    index = _index({"a": b"170", "b": b"80", "c": b"-100"}, dimensions=1)
    assert index.embeddings.shape == (3, 1)
    assert index.find("east", 3) == [("b", 1), ("a", -1), ("c", -1)]
    with pytest.raises(UsageError, match="dimensions = 3"):
        _index({"a": b"170"}, dimensions=3)


def test_of_equal_images_the_first_given_comes_first() -> None:
    index = _index(dict.fromkeys("dbca", b"45"))
    assert [name for name, _ in index.find("north", 9)] == ["d", "b", "c", "a"]


def test_a_refused_image_is_left_out_and_its_neighbours_are_not() -> None:
    images = {f"{n}": b"broken" if n in (3, 20) else str(n).encode() for n in range(40)}
    index = _index(images)
    assert index.refused == {"3": "is not an image", "20": "is not an image"}
    assert index.names == [name for name in images if name not in index.refused]
    assert index.embeddings == pytest.approx(_vectors([float(name) for name in index.names]))


def test_a_fault_of_the_encoder_is_not_blamed_on_an_image() -> None:
    with pytest.raises(SetupError):
        _index({"a": b"10", "b": b"down"})


def test_without_images_nothing_is_found() -> None:
    for images in ({}, {"a": b"broken"}):
        assert _index(images).find("north", 5) == []


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    _index(
        {str(n): b"1" for n in range(100)}, progress=lambda done, total, note="": seen.append((done, total))
    )
    assert seen == [(64, 100), (100, 100)]


def test_fewer_than_one_hit_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        _index({"a": b"1"}).find("north", 0)
