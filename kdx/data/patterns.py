"""Textures of shapes: stripes, dots and checks, turned with the object and a little beyond its edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from PIL import ImageDraw

from .canvas import Paint, Point
from .scene import Object


class _Grid:
    """A grid turned around an object's centre. step: its spacing, count: its lines on each side of the centre."""

    def __init__(self, thing: Object, random: Random) -> None:
        angle = thing.angle + random.choice((0.0, math.pi / 4, math.pi / 2, -math.pi / 4))
        self.step = max(thing.radius * random.uniform(0.42, 0.5), 0.07)  # finer ones are lost at 32 pixels
        self.reach = 1.3 * thing.radius
        self.count = math.ceil(self.reach / self.step)
        self._x, self._y = thing.x, thing.y
        self._cos, self._sin = math.cos(angle), math.sin(angle)

    def at(self, u: float, v: float, side: int) -> Point:
        """From units of the image's side along the grid to pixels."""
        x = self._x + self._cos * u - self._sin * v
        y = self._y + self._sin * u + self._cos * v
        return x * side, y * side


def _stripes(thing: Object, random: Random) -> Paint:
    grid = _Grid(thing, random)
    width, reach = 0.26 * grid.step, grid.reach

    def paint(pen: ImageDraw.ImageDraw, side: int) -> None:
        for i in range(-grid.count, grid.count + 1):
            u = i * grid.step
            corners = ((u - width, -reach), (u + width, -reach), (u + width, reach), (u - width, reach))
            pen.polygon([grid.at(*corner, side) for corner in corners], fill=255)

    return paint


def _dots(thing: Object, random: Random) -> Paint:
    grid = _Grid(thing, random)
    marks = range(-grid.count, grid.count + 1)

    def paint(pen: ImageDraw.ImageDraw, side: int) -> None:
        r = 0.27 * grid.step * side
        for i in marks:
            for j in marks:
                x, y = grid.at((i + 0.5 * (j % 2)) * grid.step, 0.9 * j * grid.step, side)
                pen.ellipse((x - r, y - r, x + r, y + r), fill=255)

    return paint


def _checks(thing: Object, random: Random) -> Paint:
    grid = _Grid(thing, random)
    width = 0.62 * grid.step
    count = math.ceil(grid.reach / width)

    def paint(pen: ImageDraw.ImageDraw, side: int) -> None:
        for i in range(-count, count + 1):
            for j in range(-count + (i + count) % 2, count + 1, 2):
                u, v = (i - 0.5) * width, (j - 0.5) * width
                corners = ((u, v), (u + width, v), (u + width, v + width), (u, v + width))
                pen.polygon([grid.at(*corner, side) for corner in corners], fill=255)

    return paint


# texture → what paints its mask on an object
PATTERNS: dict[str, Callable[[Object, Random], Paint]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checkered": _checks,
}
