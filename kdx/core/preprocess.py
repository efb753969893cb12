"""From an image to the pixels of an image encoder: one implementation for training, parity and serving.

Equal to open_clip's evaluation transform of RGB images, without torch; with a box, to its training transform.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from .digests import value_digest
from .errors import UsageError
from .images import RULES as IMAGE_RULES, ImageSource, decode_image, read_encoded

__all__ = [
    "Box",
    "ImageSource",
    "Picture",
    "Preprocess",
    "decode_image",
    "normalize",
    "normalize_levels",
    "read_encoded",
]

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels

MAX_ASPECT = 100  # a longer strip is cut to its middle first: resizing all of it would take gigabytes
RULES = f"pillow-13 pass order, strips cut at 100:1, {IMAGE_RULES}"

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")


class Picture(Protocol):
    """What `Preprocess.resize` asks of an image: PIL's have it, and those of kdx/data/pixels.py."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def crop(self, box: Box, /) -> Self:
        """Black where the box lies outside of the image."""
        ...

    def resize(self, size: tuple[int, int], resample: Image.Resampling, /) -> Self:
        """With antialiasing, as Pillow does; size: width, height."""
        ...


P = TypeVar("P", bound=Picture)


@dataclass(frozen=True)
class Preprocess:
    """Decode, resize to image_size × image_size, scale to 0…1, normalize.

    mean, std: of the channels R, G, B on the scale 0…1. interpolation: "bicubic" or "bilinear".
    resize_mode: "shortest" side to image_size, then the middle; "longest" side to image_size, then black
    borders; "squash" changes the aspect ratio. Raises UsageError for other settings.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise UsageError(f"image_size = {self.image_size} is not positive", remedy="224 is usual")
        if self.interpolation not in FILTERS:
            raise UsageError(
                f"interpolation = {self.interpolation!r} is not known",
                remedy=f"choose from {', '.join(FILTERS)}",
            )
        if self.resize_mode not in RESIZE_MODES:
            raise UsageError(
                f"resize_mode = {self.resize_mode!r} is not known",
                remedy=f"choose from {', '.join(RESIZE_MODES)}",
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(
                f"mean = {self.mean}, std = {self.std} do not normalize RGB",
                remedy="give three numbers for each, and none of std may be 0 or less",
            )

    def __call__(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """Returns float32 [3, S, S]. Raises DataError for an image that cannot be decoded."""
        resized = self.resize(decode_image(image))
        return self.normalize(np.asarray(resized))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [..., S, S, 3] → float32 [..., 3, S, S]."""
        return normalize(pixels, self.mean, self.std)

    def resize(self, image: P, box: Box | None = None) -> P:
        """image: RGB, any size. box: the part of it that is seen, a view. Returns RGB, S × S.

        A box takes the place of the middle that "shortest" would choose. So with "shortest" and "squash" all of its
        content becomes the square, whatever its aspect ratio, as in open_clip's training; "longest" keeps the ratio
        and puts black borders around it.
        """
        if box is not None:
            image = image.crop(box)
            if self.resize_mode != "longest":
                return self._resample(image, self.image_size, self.image_size)
        if self.resize_mode == "shortest":
            return self._fill(image)
        if self.resize_mode == "longest":
            return self._fit(image)
        return self._resample(image, self.image_size, self.image_size)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) of the settings and of the rules by which this module applies them."""
        settings: dict[str, Any] = {
            "rules": RULES,
            "image_size": self.image_size,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
        }
        return value_digest(settings)

    def _fill(self, image: P) -> P:
        """The shorter side becomes S, of the longer one the middle stays (torchvision's Resize and CenterCrop)."""
        image = _cut_strip(image)
        short, long = sorted(image.size)
        length = int(self.image_size * long / short)
        portrait = image.width <= image.height
        return self._resample(image, *((self.image_size, length) if portrait else (length, self.image_size)))

    def _fit(self, image: P) -> P:
        """The longer side becomes S, the rest is black (open_clip's ResizeKeepRatio and CenterCropOrPad)."""
        ratio = max(image.size) / self.image_size
        width, height = (max(1, round(side / ratio)) for side in image.size)
        resized = self._resample(image, width, height)
        if resized.size == (self.image_size, self.image_size):
            return resized
        left, top = (self.image_size - width) // 2, (self.image_size - height) // 2
        return resized.crop((-left, -top, self.image_size - left, self.image_size - top))

    def _resample(self, image: P, width: int, height: int) -> P:
        """Resizes to width × height and keeps the middle S × S of what is larger.

        One pass for each direction, rounded to uint8 between them, in the order that Pillow takes since
        version 13 (its pull request 9549); older ones always go horizontally first, which moves pixels by up
        to 12 levels. Asking for single passes makes all versions equal, and what the crop drops need not go
        through the second.
        """
        vertical_first = image.height > height and image.height - height > 2 * (image.width - width)
        if vertical_first:
            return self._resample_columns(self._resample_rows(image, height), width)
        return self._resample_rows(self._resample_columns(image, width), height)

    def _resample_columns(self, image: P, width: int) -> P:
        if width != image.width:
            image = image.resize((width, image.height), FILTERS[self.interpolation])
        if width > self.image_size:
            left = round((width - self.image_size) / 2)
            image = image.crop((left, 0, left + self.image_size, image.height))
        return image

    def _resample_rows(self, image: P, height: int) -> P:
        if height != image.height:
            image = image.resize((image.width, height), FILTERS[self.interpolation])
        if height > self.image_size:
            top = round((height - self.image_size) / 2)
            image = image.crop((0, top, image.width, top + self.image_size))
        return image


def normalize(
    pixels: npt.NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """(pixels / 255 - mean) / std, channels first.

    pixels: uint8 [..., H, W, 3]. Returns float32 [..., 3, H, W], contiguous, equal bit for bit to
    torchvision's ToTensor and Normalize (the same three roundings in the same order).
    """
    levels = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32)
    by_channel = (np.array(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    return normalize_levels(levels, *by_channel)


def normalize_levels(levels: Any, mean: Any, std: Any) -> Any:
    """The arithmetic of `normalize`, of NumPy arrays or of torch tensors on any device.

    levels: float32 [..., 3, H, W], 0 to 255. mean, std: float32 [3, 1, 1]. Returns what `levels` is.
    """
    return (levels / 255 - mean) / std


def _cut_strip(image: P) -> P:
    """The middle of an image longer than MAX_ASPECT times its width; other images as they are."""
    short, long = sorted(image.size)
    length = MAX_ASPECT * short
    if long <= length:
        return image
    start = (long - length) // 2
    if image.width > image.height:
        return image.crop((start, 0, start + length, short))
    return image.crop((0, start, short, start + length))
