"""A small canvas over Pillow: masks are drawn large and reduced, so that edges are smooth."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Outline = list[Point]  # a polygon
Colour = tuple[int, int, int]
Paint = Callable[[ImageDraw.ImageDraw, int], None]  # gets the pen and the side of the large canvas in pixels

MASK_SIDE = 256  # masks are drawn at least this large


class Canvas:
    """An RGB image with drawing in units of its side; masks are L images of the same size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.scale = max(2, math.ceil(MASK_SIDE / size))
        self.image = Image.new("RGB", (size, size))

    def gradient(self, *corners: Colour) -> None:
        """Fills the image between four colours: top left, top right, bottom left, bottom right."""
        self.image.paste(blend(corners, (self.size, self.size)))

    def mask(self, paint: Paint) -> Image.Image:
        """paint: draws 255 where the mask is to be set."""
        side = self.size * self.scale
        large = Image.new("L", (side, side))
        paint(ImageDraw.Draw(large), side)
        return large.reduce(self.scale)

    def polygon(self, points: Outline) -> Image.Image:
        return self.mask(lambda pen, side: pen.polygon([(x * side, y * side) for x, y in points], fill=255))

    def discs(self, discs: Sequence[tuple[float, float, float]]) -> Image.Image:
        """discs: x, y, radius."""

        def paint(pen: ImageDraw.ImageDraw, side: int) -> None:
            for x, y, r in discs:
                pen.ellipse(((x - r) * side, (y - r) * side, (x + r) * side, (y + r) * side), fill=255)

        return self.mask(paint)

    def paint(self, colour: Colour, mask: Image.Image, opacity: float = 1.0) -> None:
        if opacity < 1:
            mask = mask.point(fade(opacity))
        self.image.paste(colour, mask=mask)

    def blur(self, mask: Image.Image, radius: float) -> Image.Image:
        return mask.filter(ImageFilter.GaussianBlur(radius * self.size))


def blend(corners: Sequence[Colour], size: tuple[int, int]) -> Image.Image:
    """A soft gradient between top left, top right, bottom left and bottom right. size: width, height."""
    small = Image.new("RGB", (2, 2))
    small.putdata(corners)
    return small.resize(size, Image.Resampling.BICUBIC)


@functools.cache
def fade(opacity: float) -> list[int]:
    """The table for Image.point that makes a mask lighter."""
    return [round(value * opacity) for value in range(256)]


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """HSV to RGB. hue turns around in [0, 1); the others are clipped to [0, 1]."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(r * 255), round(g * 255), round(b * 255)
