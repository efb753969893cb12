"""Draws scenes with numpy: a sky, hills, clouds or stars, and objects with a shadow, a rim and a texture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageColor

from .scene import Object, Scene
from .shapes import SHAPES, TEXTURES, Plane

COLOURS = {
    "red": "#e03f49",
    "orange": "#f58c40",
    "yellow": "#fada50",
    "green": "#56b265",
    "turquoise": "#4ec2b7",
    "blue": "#4d88d6",
    "purple": "#8d62bd",
    "pink": "#f58ebc",
    "white": "#f7f3eb",
    "brown": "#946547",
}
LIGHT, GOLD, SHADOW = np.array([(255, 253, 244), (250, 214, 110), (22, 20, 48)], dtype=np.float32)
PALE = ("white", "yellow", "pink")  # their textures are darker than they are, those of others lighter


@dataclass(frozen=True)
class Backdrop:
    """hills: height and colour, the farthest first. things: in the sky; shape, number, smallest and largest radius."""

    top: str
    bottom: str
    hills: tuple[tuple[float, str], ...] = ()
    things: tuple[str, int, float, float] = ("circle", 0, 0, 0)


CLOUDS, SUN = ("cloud", 3, 0.11, 0.17), ("circle", 1, 0.12, 0.16)
STARS, FLAKES = ("circle", 20, 0.005, 0.013), ("circle", 18, 0.006, 0.015)
BACKDROPS = {
    "paper": Backdrop("#e0dce0", "#e0dee2"),
    "sky": Backdrop("#6eaddb", "#cdeffa", (), CLOUDS),
    "sunset": Backdrop("#744891", "#fcb079", ((0.14, "#48325c"),), SUN),
    "night": Backdrop("#101238", "#573d78", (), STARS),
    "meadow": Backdrop("#99d6f0", "#dcf6fa", ((0.36, "#8cc773"), (0.22, "#68b252")), CLOUDS),
    "sea": Backdrop("#aae1f2", "#fcf2e3", ((0.42, "#7ac0d8"), (0.29, "#60a6c2"), (0.16, "#4c8aa8"))),
    "snow": Backdrop("#7d96bd", "#cadbeb", ((0.34, "#e0eaf6"), (0.19, "#fafcff")), FLAKES),
}


def draw_scene(scene: Scene, image_size: int, random: Random) -> Image.Image:
    """The scene as RGB, image_size × image_size. random: decides details that captions never speak of."""
    canvas = _Canvas(image_size)
    _draw_backdrop(canvas, BACKDROPS[scene.background], random)
    for thing in (scene.main,) if scene.other is None else (scene.other[1], scene.main):
        _draw_object(canvas, thing, random)
    return Image.fromarray(canvas.pixels.clip(0, 255).round().astype(np.uint8))


class _Canvas:
    """A picture in units of its side. x [side], y [side, 1]: the centres of its pixels, whose values go up to 255."""

    def __init__(self, side: int) -> None:
        self.x = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.y = self.x[:, None]
        self.pixels = np.zeros((side, side, 3), dtype=np.float32)

    def inside(self, distance: Plane, softness: float = 0.0) -> Plane:
        """How much of each pixel is inside, in [0, 1], [H, W, 1]. The edge is a pixel wide, or `softness`."""
        return np.clip(0.5 - distance / max(softness, 1 / len(self.x)), 0, 1)[..., None]


def _draw_backdrop(canvas: _Canvas, backdrop: Backdrop, random: Random) -> None:
    top, bottom = (_vary(colour, random, by=14) for colour in (backdrop.top, backdrop.bottom))
    canvas.pixels = _mix(top, bottom, canvas.y[..., None]) + np.zeros_like(canvas.pixels)
    shape, count, smallest, largest = backdrop.things
    for _ in range(count):
        x, y, radius = random.random(), 0.8 * random.random(), random.uniform(smallest, largest)
        distance = radius * SHAPES[shape]((canvas.x - x) / radius, (canvas.y - y) / radius)
        canvas.pixels = _mix(canvas.pixels, LIGHT, 0.85 * canvas.inside(distance, softness=0.3 * radius))
    for height, colour in backdrop.hills:
        phase, crests = random.uniform(0, 2 * math.pi), random.uniform(0.9, 1.4)
        crest = [1 - height + 0.05 * math.sin(phase + 2 * math.pi * crests * x) for x in canvas.x]
        below = canvas.y - np.array(crest, dtype=np.float32)
        hill = _vary(colour, random) * (1 - 0.7 * below.clip(0)[..., None])
        canvas.pixels = _mix(canvas.pixels, hill, canvas.inside(-below))


def _draw_object(canvas: _Canvas, thing: Object, random: Random) -> None:
    shape, radius = SHAPES[thing.shape], thing.radius
    cos, sin = math.cos(thing.angle) / radius, math.sin(thing.angle) / radius
    x, y = canvas.x - thing.x, canvas.y - thing.y
    x, y = cos * x + sin * y, cos * y - sin * x  # [side, side], turned with the object, its radius is 1
    shadow = canvas.inside(radius * shape(x - 0.08, y - 0.13), softness=0.4 * radius)
    colour = _vary(COLOURS[thing.colour], random)
    body = colour * np.clip(1 - 0.16 * (x + y), 0.75, 1.2)[..., None]  # lit from the top left
    if thing.texture in TEXTURES:
        across, along = random.choice(((1, 0), (0, 1), (0.707, 0.707), (0.707, -0.707)))
        step = max(random.uniform(0.42, 0.5), 0.07 / radius)  # finer ones are lost at 32 pixels
        pattern = TEXTURES[thing.texture]((across * x + along * y) / step, (across * y - along * x) / step)
        second = 0.6 * colour if thing.colour in PALE else _mix(colour, LIGHT, 0.84)
        body = _mix(body, second, canvas.inside(radius * step * pattern))
    edge = radius * shape(x, y)
    body = _mix(body, 0.78 * colour, 0.5 * canvas.inside(-0.1 * radius - edge))  # the rim
    if thing.shape == "flower":
        heart = 0.5 * colour if thing.colour in PALE else GOLD
        body = _mix(body, heart, canvas.inside(0.3 * radius * SHAPES["circle"](x / 0.3, y / 0.3)))
    canvas.pixels = _mix(canvas.pixels, SHADOW, 0.42 * shadow)
    canvas.pixels = _mix(canvas.pixels, body, canvas.inside(edge))


def _mix(one: Plane, other: Plane, share: Plane | float) -> Plane:
    return one + (other - one) * share


def _vary(colour: str, random: Random, by: float = 8) -> Plane:
    return np.array([c + random.uniform(-by, by) for c in ImageColor.getrgb(colour)], dtype=np.float32)
