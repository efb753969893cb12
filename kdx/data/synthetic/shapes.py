"""Shapes and textures as signed distances: negative inside, in units of the radius or of the texture's step.

x, y: [H, W], y down, centre (0, 0). Near its edge a distance is about right, farther away it only grows: enough for
edges, rims and shadows. It takes sums, products and roots alone, whose results are the same on every processor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating]  # float32 in drawing
Distance = Callable[[Plane, Plane], Plane]


def _length(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y)


def _polygon(normals: tuple[tuple[float, float], ...], size: float) -> Distance:
    """A polygon by its sides; the eighth norm of their distances, instead of the largest, rounds its corners."""

    def distance(x: Plane, y: Plane) -> Plane:
        squares = [np.square(np.maximum(across * x + down * y, 0)) for across, down in normals]
        return np.sqrt(np.sqrt(np.sqrt(sum(np.square(np.square(square)) for square in squares)))) - size

    return distance


def _star(x: Plane, y: Plane) -> Plane:
    """Folded into half a spike, which one line bounds."""
    x = abs(x)
    for across in (0.809, -0.809):
        beyond = np.maximum(across * x + 0.588 * y, 0)
        x, y = x - 2 * across * beyond, y - 2 * 0.588 * beyond
    return 0.84 * abs(x) - 0.54 * (y + 1.12)


def _flower(x: Plane, y: Plane) -> Plane:
    """Six petals: cos 6φ is 4 c³ − 3 c of c = cos 2φ."""
    radius = _length(x, y) + 1e-3
    cosine = (y * y - x * x) / np.square(radius)
    return radius - 0.84 - 0.24 * cosine * (4 * np.square(cosine) - 3)


def _cloud(x: Plane, y: Plane) -> Plane:
    bumps = ((-0.55, 0.2, 0.42), (-0.1, -0.18, 0.55), (0.5, 0.08, 0.48))
    above = np.minimum.reduce([_length(x - right, y - down) - size for right, down, size in bumps])
    return np.maximum(above, y - 0.52)


SHAPES: dict[str, Distance] = {
    "circle": lambda x, y: _length(x, y) - 1,
    "square": _polygon(((1, 0), (-1, 0), (0, 1), (0, -1)), size=0.86),
    "triangle": _polygon(((0, 1), (0.866, -0.5), (-0.866, -0.5)), size=0.62),
    "star": _star,
    "heart": lambda x, y: 0.95 * _length(x, 1.15 * y + 0.62 * np.sqrt(abs(x)) - 0.1) - 0.93,
    "flower": _flower,
    "moon": lambda x, y: np.maximum(_length(x, y) - 1, 0.74 - _length(x - 0.42, y)),
    "leaf": lambda x, y: _length(abs(x) + 0.65, y) - 1.25,
    "cloud": _cloud,
    "ring": lambda x, y: abs(_length(x, y) - 0.76) - 0.24,
}


def _offset(x: Plane) -> Plane:
    """From the nearest whole number."""
    return x - np.floor(x + 0.5)


TEXTURES: dict[str, Distance] = {
    "striped": lambda x, y: abs(_offset(x)) - 0.26,
    "dotted": lambda x, y: _length(_offset(x + 0.5 * np.floor(y + 0.5)), _offset(y)) - 0.28,
    "checkered": lambda x, y: 5 * (abs(_offset(x / 1.24)) - 0.25) * (abs(_offset(y / 1.24)) - 0.25),
}
