"""Facts of kdx/data/views.py: a view is a function of seed, key and number, and stays inside the image."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from kdx.core.config import parse
from kdx.core.errors import UsageError
from kdx.core.preprocess import Preprocess
from kdx.data.sample import key_digest
from kdx.data.views import ViewConfig, choose_view, philox


def _photo(width: int = 40, height: int = 30) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _preprocess(image_size: int, **settings: str) -> Preprocess:
    return Preprocess(image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), **settings)


def _view(image: Image.Image, config: ViewConfig, key: int, view: int, preprocess: Preprocess) -> np.ndarray:
    seen = choose_view(config, key, view, *image.size)
    pixels = np.asarray(preprocess.resize(image, seen.box))
    return pixels[:, ::-1] if seen.mirrored else pixels


def _render(config: ViewConfig, key: str, view: int) -> np.ndarray:
    return _view(_photo(), config, key_digest(key), view, _preprocess(16))


def test_a_view_is_the_same_whenever_it_is_asked_for() -> None:
    config = ViewConfig(num_views=4)
    forward = [_render(config, "a", view) for view in range(4)]
    backward = [_render(config, "a", view) for view in reversed(range(4))]
    assert all(np.array_equal(x, y) for x, y in zip(forward, reversed(backward), strict=True))


def test_views_differ_by_number_key_and_seed() -> None:
    config = ViewConfig(num_views=2)
    first = _render(config, "a", 0)
    assert not np.array_equal(first, _render(config, "a", 1))
    assert not np.array_equal(first, _render(config, "b", 0))
    assert not np.array_equal(first, _render(ViewConfig(num_views=2, seed=1), "a", 0))


def test_the_whole_image_is_the_only_view_at_scale_one_of_a_square() -> None:
    square = _photo(24, 24)
    whole = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC))
    config = ViewConfig(scale=(1.0, 1.0))
    views = [_view(square, config, key_digest(str(k)), 0, _preprocess(16)) for k in range(20)]
    assert any(np.array_equal(view, whole) for view in views)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    key=st.integers(0, 2**64 - 1),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
)
def test_any_image_size_gives_a_view(width: int, height: int, key: int, resize_mode: str) -> None:
    preprocess = _preprocess(8, interpolation="bilinear", resize_mode=resize_mode)
    view = _view(_photo(width, height), ViewConfig(scale=(0.08, 1.0)), key, 0, preprocess)
    assert view.shape == (8, 8, 3) and view.dtype == np.uint8


def test_flips_mirror_about_half_of_the_views() -> None:
    left_dark = (
        Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0)).resize((32, 32)).convert("RGB")
    )
    config = ViewConfig(num_views=200, flip=True)
    mirrored = [_view(left_dark, config, 7, view, _preprocess(8))[4, 0, 0] > 128 for view in range(200)]
    assert 70 < sum(mirrored) < 130


def test_philox_streams_are_independent_of_call_order() -> None:
    one = philox(3, 2**64 - 1, 5).integers(1000, size=4)
    philox(3, 1, 5).random(100)
    assert np.array_equal(one, philox(3, 2**64 - 1, 5).integers(1000, size=4))


@pytest.mark.parametrize("scale", [[0.0, 1.0], [0.9, 0.8], [0.5, 1.5]])
def test_an_impossible_scale_is_refused(scale: list[float]) -> None:
    with pytest.raises(UsageError) as error:
        parse(ViewConfig, {"scale": scale}, "test")
    assert "views.scale" in error.value.what


def test_a_view_is_open_clips_training_crop() -> None:
    """torchvision resizes the crop to a square, whatever its aspect ratio."""
    photo, box = _photo(), (3, 5, 31, 26)
    expected = photo.crop(box).resize((16, 16), Image.Resampling.BICUBIC)
    for resize_mode in ("shortest", "squash"):
        assert _preprocess(16, resize_mode=resize_mode).resize(photo, box) == expected


def test_a_model_that_sees_borders_sees_them_around_its_views() -> None:
    white = Image.new("RGB", (40, 30), "white")
    pixels = np.asarray(_preprocess(16, resize_mode="longest").resize(white, (4, 5, 36, 21)))  # 32 × 16
    assert (pixels[4:12] == 255).all() and (pixels[:4] == 0).all() and (pixels[12:] == 0).all()
