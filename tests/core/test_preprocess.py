"""kdx.core.preprocess against open_clip's transform, and against images as the world sends them."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from kdx.core.errors import DataError, UsageError
from kdx.core.preprocess import Preprocess, normalize, normalize_levels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MODES = ("shortest", "longest", "squash")
DATA = Path(__file__).parents[3] / "shared" / "data"

needs_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="open_clip's pixels are those of Pillow 13's pass order"
)
Pixels = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def reference() -> Callable[[Image.Image, Preprocess], Pixels]:
    """open_clip's evaluation transform with the settings of a Preprocess."""

    from open_clip.transform import PreprocessCfg, image_transform_v2

    @functools.cache
    def transform(preprocess: Preprocess) -> Any:
        config = PreprocessCfg(
            size=preprocess.image_size,
            mean=preprocess.mean,
            std=preprocess.std,
            interpolation=preprocess.interpolation,
            resize_mode=preprocess.resize_mode,
        )
        return image_transform_v2(config, is_train=False)

    return lambda image, preprocess: transform(preprocess)(image.convert("RGB")).numpy()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a ramp: wrong filters, offsets and roundings all show."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return Image.fromarray((ramp + random.integers(0, 36, (height, width, 3))).astype(np.uint8))


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def preprocess(image_size: int = 32, **settings: Any) -> Preprocess:
    return Preprocess(image_size, MEAN, STD, **settings)


@needs_pillow_13
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", MODES)
def test_pixels_equal_open_clips_at_odd_sizes(
    reference: Callable[[Image.Image, Preprocess], Pixels], interpolation: str, resize_mode: str
) -> None:
    sides = (1, 2, 7, 31, 32, 33, 64, 97, 100)
    for (width, height), image_size in product(product(sides, sides), (1, 16, 32, 33)):
        if resize_mode == "longest" and round(min(width, height) * image_size / max(width, height)) < 1:
            continue  # open_clip fails: nothing is left of the shorter side
        ours = preprocess(image_size, interpolation=interpolation, resize_mode=resize_mode)
        image = noise(width, height)
        pixels = ours(image)
        assert pixels.dtype == np.float32
        assert pixels.shape == (3, image_size, image_size)
        np.testing.assert_allclose(pixels, reference(image, ours), rtol=0, atol=1e-6)


@needs_pillow_13
@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    image_size=st.integers(1, 120),
    resize_mode=st.sampled_from(["shortest", "squash"]),
)
def test_pixels_equal_open_clips_at_any_size(
    reference: Callable[[Image.Image, Preprocess], Pixels],
    width: int,
    height: int,
    image_size: int,
    resize_mode: str,
) -> None:
    if max(width, height) > 100 * min(width, height):
        height = width
    ours = preprocess(image_size, resize_mode=resize_mode)
    image = noise(width, height)
    np.testing.assert_allclose(ours(image), reference(image, ours), rtol=0, atol=1e-6)


def imagenet_sample(folder: str) -> list[Path]:
    paths = sorted((DATA / "imagenet-sample" / folder).glob("*.*"))
    if not paths:
        pytest.skip("../shared/data/imagenet-sample is absent")
    return paths


@needs_pillow_13
@pytest.mark.parametrize("resize_mode", MODES)
def test_pixels_equal_open_clips_on_photos_of_native_size(
    reference: Callable[[Image.Image, Preprocess], Pixels], resize_mode: str
) -> None:
    ours = preprocess(224, resize_mode=resize_mode)
    for path in imagenet_sample("original"):
        np.testing.assert_allclose(ours(path), reference(Image.open(path), ours), rtol=0, atol=1e-6)


@needs_pillow_13
def test_pixels_equal_open_clips_on_a_thousand_photos(
    reference: Callable[[Image.Image, Preprocess], Pixels],
) -> None:
    ours = preprocess(64)
    for path in imagenet_sample("small"):
        np.testing.assert_allclose(ours(path), reference(Image.open(path), ours), rtol=0, atol=1e-6)


def test_a_tall_image_is_resized_vertically_first_whatever_pillow_is_installed() -> None:
    image = noise(40, 400)
    filter_ = Image.Resampling.BICUBIC
    expected = image.resize((40, 20), filter_).resize((20, 20), filter_)  # 400 - 20 > 2 · (40 - 20)
    assert expected != image.resize((20, 400), filter_).resize((20, 20), filter_)
    assert preprocess(20, resize_mode="squash").resize(image) == expected


def test_a_wide_image_is_resized_horizontally_first() -> None:
    image = noise(400, 40)
    filter_ = Image.Resampling.BICUBIC
    expected = image.resize((20, 40), filter_).resize((20, 20), filter_)
    assert expected != image.resize((400, 20), filter_).resize((20, 20), filter_)
    assert preprocess(20, resize_mode="squash").resize(image) == expected


def test_white_and_black_become_the_ends_of_the_normalized_scale() -> None:
    for level, scaled in ((0, 0.0), (255, 1.0)):
        pixels = preprocess(4)(Image.new("RGB", (9, 7), (level,) * 3))
        for channel in range(3):
            np.testing.assert_allclose(pixels[channel], (scaled - MEAN[channel]) / STD[channel], rtol=1e-6)


def test_shortest_keeps_the_middle() -> None:
    stripes = np.zeros((8, 24, 3), dtype=np.uint8)
    stripes[:, 8:16] = 255
    assert np.asarray(preprocess(8).resize(Image.fromarray(stripes))).min() == 255
    assert np.asarray(preprocess(8).resize(Image.fromarray(stripes.swapaxes(0, 1)))).min() == 255


def test_longest_puts_black_borders_around_the_whole_image() -> None:
    resized = preprocess(8, resize_mode="longest").resize(Image.new("RGB", (40, 15), "white"))
    rows = np.asarray(resized)[:, :, 0]  # 40 × 15 → 8 × 3: five rows to fill, two above and three below
    np.testing.assert_array_equal(rows, np.repeat([0, 0, 255, 255, 255, 0, 0, 0], 8).reshape(8, 8))


def test_longest_leaves_one_pixel_of_a_thin_line() -> None:
    resized = preprocess(8, resize_mode="longest").resize(Image.new("RGB", (1000, 1), "white"))
    assert (np.asarray(resized)[:, :, 0].max(axis=1) == 255).sum() == 1


@pytest.mark.parametrize("size", [(6000, 2), (2, 6000), (300_000, 1), (1, 300_000), (64, 4096), (4096, 64)])
@pytest.mark.parametrize("resize_mode", MODES)
def test_strips_do_not_eat_memory(
    size: tuple[int, int], resize_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    areas: list[int] = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, size: tuple[int, int], *arguments: Any) -> Image.Image:
        areas.append(size[0] * size[1])
        return resize(self, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert preprocess(224, resize_mode=resize_mode)(Image.new("RGB", size)).shape == (3, 224, 224)
    assert max(areas) <= 224 * 224 * 100


def test_of_a_long_strip_the_middle_is_kept() -> None:
    levels = np.full((1, 3001, 3), 255, dtype=np.uint8)
    levels[:, 1490:1511] = 9
    for strip in (levels, levels.swapaxes(0, 1)):
        assert set(np.asarray(preprocess(8).resize(Image.fromarray(strip))).flat) == {9}


def test_normalize_takes_any_leading_dimensions() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7, 3), dtype=np.uint8)
    normalized = normalize(pixels, MEAN, STD)
    assert normalized.dtype == np.float32
    assert normalized.shape == (2, 3, 3, 5, 7)
    assert normalized.flags.c_contiguous
    expected = (pixels[1, 2, 3, 4, 1] / 255 - MEAN[1]) / STD[1]
    assert normalized[1, 2, 1, 3, 4] == pytest.approx(expected, abs=1e-6)


def test_training_normalises_on_its_device_as_every_other_place_does() -> None:
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    by_channel = [torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD)]
    on_device = normalize_levels(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), *by_channel)
    np.testing.assert_array_equal(on_device.numpy(), normalize(pixels, MEAN, STD))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 0},
        {"interpolation": "nearest"},
        {"resize_mode": "crop"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.5,)},
    ],
)
def test_impossible_settings_are_usage_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Preprocess(**({"image_size": 8, "mean": MEAN, "std": STD} | settings))


def test_the_digest_knows_every_setting() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"image_size": 16},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
    ]
    base = {"image_size": 8, "mean": MEAN, "std": STD}
    assert len({Preprocess(**(base | change)).digest for change in changes}) == len(changes)
    assert (
        Preprocess(8, (0, 0, 0), (1, 1, 1)).digest == Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).digest
    )


def test_path_string_bytes_and_pil_image_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    noise(50, 40).save(path)
    pixels = [preprocess()(source) for source in (path, str(path), path.read_bytes(), Image.open(path))]
    for other in pixels[1:]:
        np.testing.assert_array_equal(pixels[0], other)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_odd_files_are_accepted_and_refused_as_their_manifest_says() -> None:
    folder = DATA / "odd"
    if not folder.exists():
        pytest.skip("../shared/data/odd is absent")
    for entry in json.loads((folder / "manifest.json").read_text()):
        try:
            pixels = preprocess(224)(folder / entry["file"])
        except DataError as error:
            assert entry["expect"] != "accept", f"{error}"
            assert error.where == str(folder / entry["file"])
        else:
            assert entry["expect"] != "reject", entry["file"]
            assert np.isfinite(pixels).all()
            assert pixels.std() > 0.01 or entry["file"] == "one_pixel.png", (
                f"{entry['file']} is white or black"
            )


def test_torch_is_not_imported() -> None:
    code = "import sys, kdx.core.preprocess; print(*{'torch', 'torchvision', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
