"""Facts of kdx/evaluate/pixels.py: large sets are read the training loader's way, small ones by Pillow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.preprocess import Preprocess
from kdx.data.pixels import read_pixels
from kdx.data.shards import open_split, write_shards
from kdx.evaluate import embedding, evaluate_set, pixels
from kdx.evaluate.pixels import pixels_of, reads_fast
from kdx.evaluate.sharing import Alone

PREPROCESS = Preprocess(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_a_large_set_is_read_as_in_training_a_small_one_as_in_the_server(
    make_photo: Callable[..., bytes],
) -> None:
    photo = make_photo(3, size=60)
    assert np.array_equal(pixels_of(pixels.LARGE - 1)(PREPROCESS, photo), PREPROCESS(photo))
    as_in_training = PREPROCESS.normalize(read_pixels(photo, PREPROCESS))
    assert np.array_equal(pixels_of(pixels.LARGE)(PREPROCESS, photo), as_in_training)


def test_the_set_is_what_decides_in_an_evaluation(
    encoder: Any,
    tmp_path: Path,
    make_samples: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def recorded(count: int) -> Any:
        asked.append(count)
        return pixels_of(count)

    monkeypatch.setattr(embedding, "pixels_of", recorded)
    write_shards(tmp_path, "val", make_samples(5))
    evaluate_set(encoder, open_split(tmp_path, "val"), peers=Alone())
    assert asked == [5]


def test_without_torch_every_set_is_read_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_fast(10**6)
    monkeypatch.setattr(pixels, "find_spec", lambda name: None)
    assert not reads_fast(10**6)


def test_a_small_set_does_not_import_torch(make_photo: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_photo(0))
    code = f"""
import sys
from pathlib import Path
from kdx.core.preprocess import Preprocess
from kdx.evaluate.pixels import pixels_of
pixels_of(100)(Preprocess(8, (0, 0, 0), (1, 1, 1)), Path({str(tmp_path / "photo.jpg")!r}))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
