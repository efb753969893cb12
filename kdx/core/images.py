"""From an encoded file, or a picture in memory, to an RGB image: which formats and modes are read, and how.

Colours are those of Pillow's `convert("RGB")`, as open_clip's are, save for deep gray, which Pillow clips to white or
black. Alpha is dropped. EXIF orientation and colour profiles are ignored, because open_clip ignores them, in training
too (TIFF's own orientation is applied by Pillow in both).
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE

from .errors import DataError, KdxError, UsageError, beginning

ImageSource = str | Path | bytes | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 2**26  # 256 MiB when decoded: Pillow takes four bytes a pixel
# Pillow warns where an image is refused here anyway. Filters of whoever imports this go before
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
RULES = "16-bit gray by its high byte, 12-bit alike, float gray 0 to 1, no 32-bit integers"
SHOWN = 300  # characters of a path or a reason

PNG = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def decode_image(source: ImageSource) -> Image.Image:
    """Decodes a file, encoded bytes or a PIL image of any mode to mode RGB.

    The content decides on the format (JPEG with MPO, PNG, WebP, GIF, BMP, TIFF, AVIF), not the name. Of an animation
    the first frame is taken. Of 16-bit gray the high byte counts, as in 16-bit RGB; gray of floats must lie between 0
    and 1; gray of 32-bit integers has no known scale and is refused. An RGB image that is given is returned itself,
    not copied.

    Raises DataError for what is no image, is truncated or damaged, or has more than MAX_PIXELS pixels, which the
    header tells before anything is decoded; UsageError for what is neither a path, bytes nor a PIL image.
    """
    where = _name(source)
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, where)
        with _open(source, where) as file:
            return _decode(file, where)
    except KdxError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(where) from None
    except (
        Exception
    ) as error:  # Pillow's decoders raise nearly everything: struct.error, SyntaxError, KeyError …
        reason = beginning(str(error), SHOWN) or type(error).__name__
        raise DataError(
            f"cannot be decoded: {reason}", where=where, remedy="it is damaged or incomplete; get it again"
        ) from None


def read_encoded(source: ImageSource) -> bytes:
    """The encoded file or bytes as they are; a PIL image as a PNG of what decode_image makes of it.

    Raises DataError for what cannot be read, UsageError for what is no image; files and bytes are not decoded.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        decode_image(source).save(file, "PNG")
        return file.getvalue()
    with _open(source, _name(source)) as opened:
        return opened.read()


def _open(source: str | Path | bytes, where: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116 - a path may be of any length and any characters
            raise DataError("is not a file", where=where, remedy="check the path")
        return Path(source).open("rb")
    except (FileNotFoundError, ValueError):  # ValueError: NUL, or characters that no file system has
        raise DataError("there is no such file", where=where, remedy="check the path") from None
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=where, remedy="check the path and its permissions"
        ) from None


def _decode(file: BinaryIO, where: str) -> Image.Image:
    head = file.read(32)
    file.seek(0)
    if head.startswith(PNG):
        file = _without_text(file)
    try:
        return _to_rgb(Image.open(file, formats=FORMATS), where)
    except UnidentifiedImageError:
        if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
            what, remedy = "is HEIC, which is not read", "convert it to JPEG, for example with heif-convert"
        else:
            what, remedy = f"is not an image of a known kind ({', '.join(FORMATS)})", "convert or remove it"
        raise DataError(what, where=where, remedy=remedy) from None


def _without_text(png: BinaryIO) -> BinaryIO:
    """A PNG without its texts and colour profile: no pixel depends on them, and Pillow refuses large ones."""
    kept, left_out = [png.read(len(PNG))], False
    while len(header := png.read(8)) == 8:
        rest = int.from_bytes(header[:4], "big") + 4  # the content and its checksum
        if header[4:] in TEXT_CHUNKS:
            png.seek(rest, os.SEEK_CUR)
            left_out = True
        else:
            kept += [header, png.read(rest)]
    png.seek(0)
    return io.BytesIO(b"".join(kept)) if left_out else png


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where)
    if image.width * image.height == 0:
        raise DataError("has no pixels", where=where, remedy="remove it")
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        high = np.asarray(image) >> (_bits_of_gray(image) - 8)
        return _from_gray(np.minimum(high, 255))
    if image.mode == "F":
        levels = np.rint(np.asarray(image) * 255)  # a NaN is in no range
        if not ((levels >= 0) & (levels <= 255)).all():
            raise DataError(
                "is gray with floats that do not lie between 0 and 1",
                where=where,
                remedy="scale it to 0 … 1, or to 8 bits",
            )
        return _from_gray(levels)
    if image.mode == "I":
        raise DataError(
            "is gray with 32-bit integers, whose scale is not known",
            where=where,
            remedy="scale it to 8 or 16 bits",
        )
    if image.mode == "La":  # the one mode that Pillow takes to RGB in two steps only
        image = image.convert("LA")
    return image.convert("RGB")


def _bits_of_gray(image: Image.Image) -> int:
    """Pillow gives the levels of a TIFF with 12 bits as they are, in 16."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(BITSPERSAMPLE, (16,))[0]
    return bits if 8 < bits <= 16 else 16


def _from_gray(levels: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _too_large(where: str) -> DataError:
    return DataError(
        f"has more than {MAX_PIXELS:,} pixels", where=where, remedy="make it smaller or remove it"
    )


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source):,} bytes"
    if isinstance(source, Image.Image):
        return f"image of {source.width} × {source.height} pixels"
    if not isinstance(cast(object, source), str | Path):
        raise UsageError(
            f"an image is {type(source).__name__} ({beginning(repr(source))})",
            remedy="give a path, encoded bytes or a PIL image (of an array: PIL.Image.fromarray)",
        )
    path = str(source)
    return path if len(path) <= SHOWN and path.isprintable() else beginning(path, SHOWN)
