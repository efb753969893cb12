"""Small factories that several rooms' tests use."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.data.shards import Sample

DATA = Path(__file__).parent.parent.parent / "shared" / "data"  # real photos, where a machine has them


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """The folder with the real sets; a test that asks for it skips where there is none."""
    if not DATA.is_dir():
        pytest.skip("the real photo sets are not on this machine")
    return DATA


def photo(seed: int, size: int = 40, kind: str = "JPEG") -> bytes:
    """A smooth random image as an encoded file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((size, size + 6), Image.Resampling.BICUBIC).save(file, kind, quality=90)
    return file.getvalue()


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., bytes]:
    return photo


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., list[Sample]]:
    """make_samples(count, captions=None): labelled samples of three classes."""

    def make(count: int, captions: list[tuple[str, ...]] | None = None) -> list[Sample]:
        texts = captions or [(f"caption number {index}",) for index in range(count)]
        return [Sample(f"s{index:04d}", photo(index), texts[index], index % 3) for index in range(count)]

    return make
