"""kdx.core.images: what is an image, what it looks like in RGB, and what is said of what is none."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kdx.core.errors import DataError, UsageError
from kdx.core.images import MAX_PIXELS, SHOWN, decode_image, read_encoded


def noise(width: int, height: int) -> Image.Image:
    """Noise over a ramp."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return Image.fromarray((ramp + random.integers(0, 36, (height, width, 3))).astype(np.uint8))


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def refused(source: Any) -> DataError:
    with pytest.raises(DataError) as raised:
        decode_image(source)
    error = raised.value
    assert error.remedy and "\n" not in str(error)
    assert len(error.what) < 2 * SHOWN and len(error.where or "") <= SHOWN
    return error


# Formats


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF"])
def test_the_content_decides_on_the_format(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(noise(20, 10), format_))
    image = decode_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))
    assert image.tobytes() == Image.open(path).convert("RGB").tobytes()


@pytest.mark.parametrize("format_", ["PPM", "ICO", "TGA", "PDF", "EPS", "PCX", "JPEG2000"])
def test_other_formats_are_refused(format_: str) -> None:
    data = encoded(noise(20, 10), format_)
    assert refused(data).where == f"image of {len(data):,} bytes"


def test_heic_is_named_with_what_to_do() -> None:
    for brand in (b"heic", b"mif1"):
        error = refused(b"\0\0\0\x18ftyp" + brand + bytes(40))
        assert "HEIC" in error.what and "JPEG" in (error.remedy or "")
    assert "HEIC" not in refused(b"\0\0\0\x18ftypisom" + bytes(40)).what  # a video


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["text", "itxt", "profile"])
def test_a_png_may_carry_megabytes_of_text(tmp_path: Path, kind: str, packed: bool) -> None:
    """The pixels do not depend on it; Pillow alone refuses more than 1 MiB unpacked, as damaged."""
    text, options = PngInfo(), {}
    if kind == "text":
        text.add_text("Comment", "x" * 3_000_000, zip=packed)
    elif kind == "itxt":
        text.add_itxt("Comment", "x" * 3_000_000, zip=packed)
    else:
        options["icc_profile"] = b"x" * 3_000_000
    (tmp_path / "image.png").write_bytes(encoded(noise(20, 10), "PNG", pnginfo=text, **options))
    plain = noise(20, 10).tobytes()
    assert decode_image(tmp_path / "image.png").tobytes() == plain
    assert decode_image((tmp_path / "image.png").read_bytes()).tobytes() == plain


def test_a_png_that_is_cut_in_its_text_is_damaged() -> None:
    text = PngInfo()
    text.add_text("Comment", "x" * 3_000_000)
    refused(encoded(noise(20, 10), "PNG", pnginfo=text)[:1000])


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_modes_become_rgb_as_in_pillow(mode: str) -> None:
    source = noise(20, 10).convert("L").convert("I") if mode == "I;16" else noise(20, 10)
    data = encoded(source.convert(mode), "PNG")
    image = Image.open(io.BytesIO(data))
    assert image.mode == mode
    expected = image.convert("RGB") if mode != "I;16" else Image.new("RGB", (20, 10))  # levels below 256
    assert decode_image(data).tobytes() == expected.tobytes()


def test_cmyk_becomes_rgb_as_in_pillow() -> None:
    data = encoded(noise(20, 10).convert("CMYK"), "JPEG")
    assert decode_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_a_transparent_palette_becomes_rgb_as_in_pillow() -> None:
    data = encoded(noise(20, 10).quantize(16), "PNG", transparency=3)
    image = Image.open(io.BytesIO(data))
    assert "transparency" in image.info
    assert decode_image(data).tobytes() == image.convert("RGB").tobytes()


def test_of_16_bit_gray_the_high_byte_counts() -> None:
    levels = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    for format_ in ("PNG", "TIFF"):
        image = decode_image(encoded(Image.fromarray(levels), format_))
        np.testing.assert_array_equal(
            np.asarray(image), np.array([[[0], [0], [1], [0x12], [0xFF]]]).repeat(3, 2)
        )


PIL_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@pytest.mark.parametrize("mode", PIL_MODES)
def test_a_picture_in_memory_may_be_of_any_mode(mode: str) -> None:
    step = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode)
    image = noise(20, 10).convert(step).convert(mode)
    decoded = decode_image(image)
    assert decoded.mode == "RGB"
    expected = image.convert("LA").convert("RGB") if mode == "La" else image.convert("RGB")
    assert decoded.tobytes() == expected.tobytes()
    assert decode_image(read_encoded(image)).tobytes() == decoded.tobytes()  # as a server sees it


def tiff(levels: np.ndarray, bits: int, sample_format: int) -> bytes:
    """A gray TIFF of one strip, written by hand: Pillow writes no 12 bits."""
    height, width = levels.shape
    if bits == 12:
        ordered = [f"{int(level):012b}" for level in levels.flat]
        content = int("".join(ordered), 2).to_bytes(len(ordered) * 12 // 8, "big")
    else:
        content = levels.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(content), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


def test_of_12_bit_gray_the_highest_8_bits_count() -> None:
    image = decode_image(tiff(np.array([[0, 15, 16, 0x123, 0xFFF, 0x7FF]]), 12, 1))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF, 0x7F]


def test_gray_of_floats_lies_between_0_and_1() -> None:
    levels = np.array([[0, 0.25, 0.5, 1, 1.0005, -0.0005]], dtype=np.float32)
    for source in (Image.fromarray(levels), tiff(levels, 32, 3)):
        assert np.asarray(decode_image(source))[0].tolist() == [
            [level] * 3 for level in (0, 64, 128, 255, 255, 0)
        ]
    for wrong in (1.1, 200, -0.1, np.nan, np.inf):
        levels[0, 2] = wrong
        for source in (Image.fromarray(levels), tiff(levels, 32, 3)):
            assert "between 0 and 1" in refused(source).what


def test_gray_of_32_bit_integers_has_no_scale_and_is_refused() -> None:
    levels = np.array([[0, 100, 70_000]], dtype=np.int32)
    for source in (Image.fromarray(levels), tiff(levels, 32, 1), tiff(levels, 32, 2)):
        assert "32-bit integers" in refused(source).what


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {} if format_ in ("GIF", "TIFF", "PNG") else {"lossless": True}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert decode_image(data).getpixel((4, 4)) == (255, 0, 0)


def test_exif_orientation_is_ignored_as_in_open_clip() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(noise(20, 10), "JPEG", exif=exif)).size == (20, 10)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_is_a_data_error_at_every_cut(format_: str) -> None:
    whole = encoded(noise(64, 48), format_)
    for length in range(0, len(whole) * 9 // 10, max(1, len(whole) // 40)):
        assert refused(whole[:length]).where == f"image of {length:,} bytes"


@settings(max_examples=300, deadline=None)
@given(
    format_=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
)
def test_damaged_bytes_decode_or_are_a_data_error(format_: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(noise(16, 12), format_))
    for place, value in damage:
        data[int(place * len(data))] = value
    try:
        assert decode_image(bytes(data)).mode == "RGB"
    except DataError as error:
        assert error.remedy


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_a_data_error(data: bytes) -> None:
    refused(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and then ends: only who looks at the header alone can refuse the size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 10) + b"IDAT"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_refused_for_its_size_is_said_by_kdx_alone(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(12_000, 12_000))
    program = (
        "import sys\nfrom kdx.core.images import decode_image\n"
        "try: decode_image(sys.argv[1])\nexcept Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "bomb.png"], capture_output=True, text=True, check=True
    )
    assert "67,108,864 pixels" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 12_000), (MAX_PIXELS + 1, 1)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    assert "67,108,864 pixels" in refused(png_header(*size)).what
    assert "pixels" not in refused(png_header(8_000, 8_000)).what


def test_a_pil_image_is_bounded_and_loaded_too() -> None:
    assert "67,108,864 pixels" in refused(Image.new("1", (MAX_PIXELS + 1, 1))).what
    assert refused(Image.new("RGB", (0, 5))).where == "image of 0 × 5 pixels"
    refused(Image.open(io.BytesIO(encoded(noise(64, 48), "JPEG")[:900])))


def test_a_missing_file_a_folder_and_a_pipe_are_data_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.jpg", ".", "pipe", "missing/deep.jpg"):
        assert refused(tmp_path / name).where == str(tmp_path / name)


@pytest.mark.parametrize("text", ["iVBORw0KGgo" * 100_000, "a\0b", "\ud800.jpg", "two\nlines" * 99, ""])
def test_text_that_is_no_path_is_said_by_its_beginning(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("read", [decode_image, read_encoded])
@pytest.mark.parametrize(
    "source",
    [None, 3, [b"bytes"] * 10_000, np.zeros((300, 300, 3)), bytearray(10**6), iter([]), io.BytesIO(b"x")],
)
def test_what_is_neither_path_bytes_nor_picture_is_the_callers_fault(read: Any, source: Any) -> None:
    with pytest.raises(UsageError) as raised:
        read(source)
    assert type(source).__name__ in raised.value.what and len(raised.value.what) < 200
