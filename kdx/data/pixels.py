"""From an encoded image to the uint8 pixels of a model, twice as fast as `Preprocess` and within 2 levels of it.

`Preprocess` (kdx/core/preprocess.py), which is Pillow's arithmetic and the server's, is the definition. Here a plain
JPEG is decoded without Pillow's copies, to equal pixels, and resized by torch, which rounds its weights otherwise;
whatever else an image is goes through Pillow. Training, teacher caches and the evaluation of large sets read their
images here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch.nn.functional import interpolate

from kdx.core.images import MAX_PIXELS, decode_image
from kdx.core.preprocess import Box, Preprocess

from .views import WHOLE, View

READ = ("YCbCr", "RGB", "Gray")  # CMYK and YCCK become RGB in Pillow, by its own arithmetic
MODES = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}


Choose = Callable[[int, int], View]  # the view of an image of that width and height


def read_pixels(
    encoded: bytes, preprocess: Preprocess, choose: Choose = lambda *_: WHOLE
) -> npt.NDArray[np.uint8]:
    """uint8 [S, S, 3]. Raises DataError as `decode_image` does."""
    (pixels,) = read_views(encoded, preprocess, [choose])
    return pixels


def read_views(
    encoded: bytes, preprocess: Preprocess, choices: Iterable[Choose]
) -> list[npt.NDArray[np.uint8]]:
    """uint8 [S, S, 3] for each choice; the image is decoded once. Raises DataError as `decode_image` does."""
    image = _decode_plain_jpeg(encoded) or decode_image(encoded)
    rendered: list[npt.NDArray[np.uint8]] = []
    for choose in choices:
        view = choose(image.width, image.height)
        if isinstance(image, Levels):
            pixels = preprocess.resize(image, view.box).array
        else:
            pixels = np.asarray(preprocess.resize(image, view.box))
        rendered.append(pixels[:, ::-1] if view.mirrored else pixels)
    return rendered


@dataclass(frozen=True)
class Levels:
    """A Picture whose pixels are an array, uint8 [H, W, 3]."""

    array: npt.NDArray[np.uint8]

    @property
    def width(self) -> int:
        return self.array.shape[1]

    @property
    def height(self) -> int:
        return self.array.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def crop(self, box: Box, /) -> Levels:
        left, upper, right, lower = box
        inside = self.array[max(upper, 0) : lower, max(left, 0) : right]
        if inside.shape[:2] != (lower - upper, right - left):
            cropped = np.zeros((lower - upper, right - left, 3), dtype=np.uint8)
            top, start = max(-upper, 0), max(-left, 0)
            cropped[top : top + inside.shape[0], start : start + inside.shape[1]] = inside
            inside = cropped
        return Levels(inside)

    def resize(self, size: tuple[int, int], resample: Image.Resampling, /) -> Levels:
        width, height = size
        # torch reads rows of pixels fast, and fails on some other layouts
        rows = torch.from_numpy(np.ascontiguousarray(self.array))
        planes = rows[None].permute(0, 3, 1, 2)  # [1, 3, H, W], channels last
        resized = interpolate(planes, (height, width), mode=MODES[resample], antialias=True)
        return Levels(resized[0].permute(1, 2, 0).numpy())


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height by the header; None for what is no plain JPEG, and for more pixels than are read."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    if colours not in READ or int(height) * int(width) > MAX_PIXELS:
        return None
    return int(width), int(height)


def _decode_plain_jpeg(encoded: bytes) -> Levels | None:
    """None for what is not one, or is damaged in any way: Pillow then decides what that means."""
    if plain_jpeg_size(encoded) is None:
        return None
    try:
        return Levels(simplejpeg.decode_jpeg(encoded))
    except ValueError:
        return None
