"""Backgrounds of scenes: soft gradients with clouds, hills, waves, dunes, stars or snow."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from .canvas import Canvas, Colour, blend, rgb


def _paper(canvas: Canvas, random: Random) -> None:
    hue = random.random()
    canvas.gradient(
        *(rgb(hue + d, random.uniform(0.08, 0.24), random.uniform(0.86, 0.97)) for d in (0, 0.06, 0.1, 0.2))
    )


def _sky(canvas: Canvas, random: Random) -> None:
    hue = random.uniform(0.54, 0.6)
    top, bottom = rgb(hue, 0.5, 0.86), rgb(hue - 0.03, 0.18, 0.98)
    canvas.gradient(top, top, bottom, bottom)
    _clouds(canvas, random, (255, 255, 255), 0.85)


def _sunset(canvas: Canvas, random: Random) -> None:
    hue = random.uniform(0.72, 0.82)
    low = random.uniform(0.04, 0.1)
    canvas.gradient(
        rgb(hue, 0.45, 0.55), rgb(hue + 0.05, 0.48, 0.62), rgb(low, 0.5, 0.99), rgb(low, 0.55, 0.98)
    )
    x, y = random.uniform(0.15, 0.85), random.uniform(0.68, 0.85)
    canvas.paint((255, 226, 160), canvas.blur(canvas.discs([(x, y, 0.2)]), 0.07), 0.7)
    canvas.paint((255, 240, 200), canvas.discs([(x, y, 0.11)]))
    _hills(canvas, random, rgb(hue - 0.02, 0.4, 0.42), rgb(hue - 0.02, 0.5, 0.28), height=0.14)


def _night(canvas: Canvas, random: Random) -> None:
    hue = random.uniform(0.6, 0.72)
    canvas.gradient(
        rgb(hue, 0.72, 0.2), rgb(hue, 0.7, 0.24), rgb(hue + 0.06, 0.5, 0.44), rgb(hue + 0.1, 0.48, 0.5)
    )
    stars = [
        (random.random(), random.random() * 0.9, random.choice((0.005, 0.008, 0.012))) for _ in range(26)
    ]
    canvas.paint((255, 246, 214), canvas.discs(stars), 0.9)


def _meadow(canvas: Canvas, random: Random) -> None:
    canvas.gradient(*[rgb(0.55, 0.36, 0.94)] * 2, *[rgb(0.52, 0.12, 0.98)] * 2)
    _clouds(canvas, random, (255, 255, 255), 0.6)
    hue = random.uniform(0.24, 0.33)
    _hills(canvas, random, rgb(hue, 0.42, 0.78), rgb(hue + 0.02, 0.5, 0.66), height=0.36)
    _hills(canvas, random, rgb(hue, 0.52, 0.72), rgb(hue + 0.03, 0.6, 0.52), height=0.22)


def _sea(canvas: Canvas, random: Random) -> None:
    canvas.gradient(*[rgb(0.54, 0.3, 0.95)] * 2, *[rgb(0.1, 0.1, 0.99)] * 2)
    hue = random.uniform(0.5, 0.58)
    for i, height in enumerate((0.42, 0.29, 0.16)):
        value = 0.86 - 0.12 * i
        _hills(
            canvas,
            random,
            rgb(hue, 0.42, value),
            rgb(hue + 0.02, 0.6, value - 0.08),
            height=height,
            waves=3.2,
            swell=0.022,
        )


def _desert(canvas: Canvas, random: Random) -> None:
    canvas.gradient(*[rgb(0.53, 0.26, 0.93)] * 2, *[rgb(0.11, 0.24, 0.99)] * 2)
    hue = random.uniform(0.085, 0.12)
    for i, height in enumerate((0.4, 0.27, 0.15)):
        value = 0.94 - 0.08 * i
        _hills(
            canvas,
            random,
            rgb(hue, 0.36 + 0.05 * i, value),
            rgb(hue - 0.02, 0.5 + 0.05 * i, value - 0.12),
            height=height,
        )


def _snow(canvas: Canvas, random: Random) -> None:
    canvas.gradient(*[rgb(0.6, 0.34, 0.74)] * 2, *[rgb(0.58, 0.14, 0.92)] * 2)
    _hills(canvas, random, rgb(0.59, 0.08, 0.97), rgb(0.6, 0.2, 0.86), height=0.34)
    _hills(canvas, random, (255, 255, 255), rgb(0.6, 0.12, 0.92), height=0.19)
    flakes = [(random.random(), random.random(), random.choice((0.008, 0.012, 0.016))) for _ in range(22)]
    canvas.paint((255, 255, 255), canvas.discs(flakes), 0.9)


BACKGROUND_PAINTERS: dict[str, Callable[[Canvas, Random], None]] = {
    "paper": _paper,
    "sky": _sky,
    "sunset": _sunset,
    "night": _night,
    "meadow": _meadow,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
}


def _clouds(canvas: Canvas, random: Random, colour: Colour, opacity: float) -> None:
    discs: list[tuple[float, float, float]] = []
    for _ in range(3):
        x, y, r = random.random(), random.uniform(0.05, 0.75), random.uniform(0.05, 0.09)
        discs += [(x - 1.2 * r, y + 0.3 * r, 0.7 * r), (x, y, r), (x + 1.2 * r, y + 0.25 * r, 0.75 * r)]
    canvas.paint(colour, canvas.blur(canvas.discs(discs), 0.016), opacity)


def _hills(
    canvas: Canvas,
    random: Random,
    top: Colour,
    bottom: Colour,
    *,
    height: float,
    waves: float = 1.1,
    swell: float = 0.05,
) -> None:
    """A wavy band along the bottom edge, shaded from its top to the image's bottom."""
    phase = random.uniform(0, 2 * math.pi)
    waves *= random.uniform(0.8, 1.2)
    line = [(i / 32, 1 - height + swell * math.sin(phase + 2 * math.pi * waves * i / 32)) for i in range(33)]
    mask = canvas.polygon([*line, (1.02, 1.02), (0.0, 1.02)])
    start = round((1 - height - swell) * canvas.size)
    band = blend((top, top, bottom, bottom), (canvas.size, canvas.size - start))
    canvas.image.paste(band, (0, start), mask=mask.crop((0, start, canvas.size, canvas.size)))
