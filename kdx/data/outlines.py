"""Outlines of the shapes: polygons in units of the radius, centre (0, 0), y down."""

from __future__ import annotations

import math
from collections.abc import Callable

from .canvas import Outline, Point


def _polar(radius: Callable[[float], float], points: int = 60) -> Outline:
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(radius(a) * math.sin(a), -radius(a) * math.cos(a)) for a in angles]


def _rounded(corners: Outline, times: int = 3) -> Outline:
    """Chaikin's corner cutting: each pass replaces a corner by two points on its sides."""
    for _ in range(times):
        following = [*corners[1:], corners[0]]
        corners = [
            (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]))
            for a, b in zip(corners, following, strict=True)
            for t in (0.14, 0.86)
        ]
    return corners


def _star() -> Outline:
    spikes = [(1.12 if i % 2 == 0 else 0.52, math.pi * i / 5) for i in range(10)]
    return _rounded([(r * math.sin(a), -r * math.cos(a)) for r, a in spikes], 2)


def _heart() -> Outline:
    def at(a: float) -> Point:
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        return 16 * math.sin(a) ** 3 / 15.5, -(y + 2.5) / 15.5

    return [at(2 * math.pi * i / 60) for i in range(60)]


def _moon() -> Outline:
    outer = [(math.cos(a), math.sin(a)) for a in (math.radians(40 + 280 * i / 40) for i in range(41))]
    inner = [
        (0.42 + 0.74 * math.cos(a), 0.74 * math.sin(a))
        for a in (math.radians(300 - 240 * i / 40) for i in range(41))
    ]
    return [(x + 0.15, y) for x, y in outer + inner]


def _leaf() -> Outline:
    half = [(0.62 * math.sin(math.pi * i / 24) ** 0.9, -1.05 + 2.1 * i / 24) for i in range(25)]
    return half + [(-x, y) for x, y in half[-2:0:-1]]


def _drop() -> Outline:
    def at(a: float) -> Point:
        return 0.72 * math.sin(a) * math.sin(a / 2) ** 1.3 * 1.1, -math.cos(a)

    return [at(2 * math.pi * i / 60) for i in range(60)]


def _cloud() -> Outline:
    bumps = [(-0.55, 0.2, 0.42), (-0.1, -0.18, 0.55), (0.5, 0.08, 0.48)]

    def radius(a: float) -> float:
        """The farthest point along this direction that lies in one of the bumps or in the flat foot."""
        dx, dy = math.sin(a), -math.cos(a)
        reach = 0.0
        for x, y, r in bumps:
            along = dx * x + dy * y
            off = x * x + y * y - along * along
            if off < r * r:
                reach = max(reach, along + math.sqrt(r * r - off))
        return min(reach, 0.56 / dy) if dy > 1e-6 else reach

    return _polar(radius, 72)


def _cross() -> Outline:
    w = 0.36
    quarter = [(w, -w), (w, -1.0), (-w, -1.0)]
    arms = [(c * x - s * y, s * x + c * y) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1)) for x, y in quarter]
    return _rounded(arms, 2)


OUTLINES: dict[str, Outline] = {
    "circle": _polar(lambda _: 1.0),
    "ring": _polar(lambda _: 1.0),
    "square": _rounded([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
    "triangle": _rounded([(0.0, -1.15), (1.12, 0.82), (-1.12, 0.82)]),
    "star": _star(),
    "heart": _heart(),
    "flower": _polar(lambda a: 0.84 + 0.24 * math.cos(6 * a), 96),
    "moon": _moon(),
    "leaf": _leaf(),
    "drop": _drop(),
    "cloud": _cloud(),
    "cross": _cross(),
}
