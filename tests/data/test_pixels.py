"""kdx/data/pixels.py against Pillow: equal pixels when decoded, at most 2 levels of 255 apart when resized."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given, settings, strategies as st
from PIL import Image

from kdx.core.errors import DataError
from kdx.core.images import MAX_PIXELS, decode_image
from kdx.core.preprocess import Box, Preprocess
from kdx.data import pixels
from kdx.data.pixels import read_pixels
from kdx.data.scaled_pixels import read_scaled_pixels
from kdx.data.views import View

DATA = Path(__file__).parents[3] / "shared" / "data"
MAX_LEVELS = 2
MODES = ("shortest", "longest", "squash")


def noise(width: int, height: int) -> Image.Image:
    """Noise over a ramp: wrong filters, offsets and roundings all show."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return Image.fromarray((ramp + random.integers(0, 36, (height, width, 3))).astype(np.uint8))


def encoded(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def preprocess(image_size: int, interpolation: str = "bicubic", resize_mode: str = "shortest") -> Preprocess:
    return Preprocess(image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation, resize_mode)


def by_pillow(data: bytes, preprocess: Preprocess, box: Box | None = None) -> npt.NDArray[np.uint8]:
    return np.asarray(preprocess.resize(decode_image(data), box))


def levels_apart(ours: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> int:
    assert ours.dtype == np.uint8 and ours.shape == expected.shape
    return int(np.abs(ours.astype(int) - expected).max())


def decoded_fast(data: bytes) -> bool:
    return pixels._decode_plain_jpeg(data) is not None


def plain_jpegs() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated: ignored
    for size in ((64, 48), (33, 17), (1, 1), (7, 200)):
        image = noise(*size)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            yield encoded(image, subsampling=subsampling)
        yield encoded(image.convert("L"))
        yield encoded(image, progressive=True, quality=30)
        yield encoded(image, exif=exif, icc_profile=b"profile" * 99, comment=b"comment")
        yield encoded(image, keep_rgb=True)
        yield encoded(image, restart_marker_blocks=2, optimize=True)


def subsampled(horizontal: int, vertical: int) -> bytes:
    """A gray-looking JPEG that declares these sampling factors of luma: what Pillow does not write itself."""
    data = bytearray(encoded(noise(64, 64), subsampling="4:4:4"))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = horizontal << 4 | vertical
    return bytes(data)


def test_a_plain_jpeg_is_decoded_to_pillows_pixels() -> None:
    for data in plain_jpegs():
        levels = pixels._decode_plain_jpeg(data)
        assert levels is not None
        assert np.array_equal(levels.array, np.asarray(decode_image(data)))


def test_what_is_no_plain_jpeg_is_pillows_to_decode() -> None:
    precise = bytearray(encoded(noise(20, 10)))
    precise[precise.index(b"\xff\xc0") + 4] = 12  # bits
    others = [
        encoded(noise(20, 10).convert("CMYK")),
        encoded(noise(20, 10), "PNG"),
        encoded(noise(9, 9), "WEBP"),
    ]
    for data in others:
        assert not decoded_fast(data)
        assert np.array_equal(read_pixels(data, preprocess(8)), by_pillow(data, preprocess(8)))
    for data in (bytes(precise), subsampled(3, 1), b"no image", b""):
        assert not decoded_fast(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_truncated_jpeg_is_refused_at_every_cut_as_by_pillow(options: dict[str, Any]) -> None:
    whole = encoded(noise(64, 48), **options)
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        with pytest.raises(DataError) as ours:
            read_pixels(whole[:length], preprocess(8))
        with pytest.raises(DataError) as pillows:
            decode_image(whole[:length])
        assert str(ours.value) == str(pillows.value)


@settings(max_examples=300, deadline=None)
@given(
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_damaged_bytes_are_what_they_are_to_pillow(damage: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(noise(16, 12)))
    for place, value in damage:
        data[int(place * len(data))] = value
    levels = pixels._decode_plain_jpeg(bytes(data))
    if levels is not None:
        assert np.array_equal(levels.array, np.asarray(decode_image(bytes(data))))


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = bytearray(encoded(noise(8, 8)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height, width
    with pytest.raises(DataError, match=f"{MAX_PIXELS:,} pixels"):
        read_pixels(bytes(data), preprocess(8))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    image_size=st.integers(1, 120),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    resize_mode=st.sampled_from(MODES),
    corner=st.none() | st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
)
def test_any_size_is_resized_within_two_levels_of_pillow(
    width: int,
    height: int,
    image_size: int,
    interpolation: str,
    resize_mode: str,
    corner: tuple[float, float] | None,
) -> None:
    data = encoded(noise(width, height))
    box = None if corner is None else (int(corner[0] * width), int(corner[1] * height), width, height)
    ours = preprocess(image_size, interpolation, resize_mode)
    seen = read_pixels(data, ours, lambda *_: View(box))
    assert levels_apart(seen, by_pillow(data, ours, box)) <= MAX_LEVELS


def test_the_view_is_chosen_by_the_images_size_and_may_be_mirrored() -> None:
    data = encoded(noise(50, 30))
    asked: list[tuple[int, int]] = []

    def choose(width: int, height: int) -> View:
        asked.append((width, height))
        return View((2, 3, 40, 28), mirrored=len(asked) > 1)

    straight, mirrored = (read_pixels(data, preprocess(16), choose) for _ in range(2))
    assert asked == [(50, 30)] * 2
    assert np.array_equal(straight[:, ::-1], mirrored)
    assert levels_apart(straight, by_pillow(data, preprocess(16), (2, 3, 40, 28))) <= MAX_LEVELS


def photos() -> list[Path]:
    found = sorted((DATA / "imagenet-sample").glob("*/*.jpg"))
    if not found:
        pytest.skip("../shared/data/imagenet-sample is absent")
    return found


def test_photos_are_decoded_to_pillows_pixels_and_resized_within_two_levels() -> None:
    fast = 0
    for number, path in enumerate(photos()):
        data = path.read_bytes()
        levels = pixels._decode_plain_jpeg(data)
        if levels is not None:
            fast += 1
            assert np.array_equal(levels.array, np.asarray(decode_image(data))), path
        if number % 8 == 0:
            for ours in (preprocess(224), preprocess(64, "bilinear", MODES[number // 8 % 3])):
                assert levels_apart(read_pixels(data, ours), by_pillow(data, ours)) <= MAX_LEVELS, path
    assert fast > 0.98 * len(photos())


def test_odd_files_are_what_they_are_to_pillow() -> None:
    files = [path for path in sorted((DATA / "odd").glob("*")) if path.suffix != ".json"]
    if not files:
        pytest.skip("../shared/data/odd is absent")
    for path in files:
        data = path.read_bytes()
        try:
            expected = by_pillow(data, preprocess(224))
        except DataError as error:
            with pytest.raises(DataError) as refused:
                read_pixels(data, preprocess(224))
            assert str(refused.value) == str(error)
        else:
            assert levels_apart(read_pixels(data, preprocess(224)), expected) <= MAX_LEVELS, path


def smooth(width: int, height: int) -> Image.Image:
    """Waves that survive any decent resizing."""
    across, down = np.linspace(0, 9, width)[None, :, None], np.linspace(0, 7, height)[:, None, None]
    return Image.fromarray((127 + 60 * np.sin(across + np.arange(3)) + 60 * np.cos(down)).astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "factor"), [(230, 190, 2), (400, 301, 4), (900, 700, 8), (60, 99, 1)]
)
def test_a_scaled_view_is_decoded_at_a_power_of_two_and_nearly_the_exact_one(
    width: int, height: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(smooth(width, height), quality=95)
    box = (3, 5, width - 1, height - 2)
    exact = read_pixels(data, preprocess(64), lambda *_: View(box, mirrored=True))
    decoded: list[tuple[int, ...]] = []
    decode = simplejpeg.decode_jpeg

    def recorded(*arguments: Any, **options: Any) -> Any:
        decoded.append((levels := decode(*arguments, **options)).shape[:2])
        return levels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", recorded)
    scaled = read_scaled_pixels(data, preprocess(64), lambda *_: View(box, mirrored=True))
    assert decoded == [(-(-height // factor), -(-width // factor))]
    assert np.abs(scaled.astype(int) - exact).mean() < (1.5 if factor > 1 else 0.001)


def test_what_cannot_be_scaled_is_read_exactly() -> None:
    whole = encoded(smooth(200, 200))
    for data in (encoded(smooth(200, 200), "PNG"), encoded(smooth(200, 200).convert("CMYK"))):
        scaled = read_scaled_pixels(data, preprocess(16), lambda *_: View((0, 0, 180, 190)))
        assert np.array_equal(scaled, read_pixels(data, preprocess(16), lambda *_: View((0, 0, 180, 190))))
    with pytest.raises(DataError):
        read_scaled_pixels(whole[: len(whole) // 2], preprocess(16), lambda *_: View((0, 0, 180, 190)))
