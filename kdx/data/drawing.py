"""Draws scenes of the synthetic set with Pillow."""

from __future__ import annotations

import io
import math
from random import Random

from PIL import Image, ImageDraw

from .backgrounds import BACKGROUND_PAINTERS
from .canvas import Canvas, Colour, Outline, blend, fade, rgb
from .outlines import OUTLINES
from .patterns import PATTERNS
from .scene import Object, Scene

JPEG_QUALITY = 90
SHADOW: Colour = (22, 20, 48)
HEART_OF_FLOWERS: Colour = (250, 214, 110)
HEART_OF_YELLOW_FLOWERS: Colour = (146, 92, 60)

# hue, saturation, value
TONES = {
    "red": (0.99, 0.72, 0.88),
    "orange": (0.07, 0.74, 0.96),
    "yellow": (0.135, 0.68, 0.98),
    "green": (0.36, 0.52, 0.70),
    "turquoise": (0.485, 0.60, 0.76),
    "blue": (0.595, 0.64, 0.84),
    "purple": (0.745, 0.48, 0.74),
    "pink": (0.925, 0.42, 0.96),
    "white": (0.11, 0.05, 0.97),
    "brown": (0.065, 0.52, 0.58),
}


def render_jpeg(scene: Scene, image_size: int, random: Random) -> bytes:
    """The scene as JPEG (quality 90, colour at full resolution), image_size × image_size."""
    buffer = io.BytesIO()
    draw_scene(scene, image_size, random).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def draw_scene(scene: Scene, image_size: int, random: Random) -> Image.Image:
    """The scene as RGB, image_size × image_size. random: decides details that captions never speak of."""
    canvas = Canvas(image_size)
    BACKGROUND_PAINTERS[scene.background](canvas, random)
    for _, other in scene.others:
        _draw_object(canvas, other, random)
    _draw_object(canvas, scene.main, random)
    return canvas.image


def _draw_object(canvas: Canvas, thing: Object, random: Random) -> None:
    outline = _place(OUTLINES[thing.shape], thing)
    alpha = canvas.polygon(outline)
    if thing.shape == "ring":
        alpha.paste(0, mask=canvas.discs([(thing.x, thing.y, 0.52 * thing.radius)]))
    _draw_shadow(canvas, alpha, thing.radius)
    box = _bounds(outline, canvas.size)
    canvas.image.paste(_body(canvas, thing, outline, box, random), box[:2], mask=alpha.crop(box))


def _body(
    canvas: Canvas, thing: Object, outline: Outline, box: tuple[int, int, int, int], random: Random
) -> Image.Image:
    """What fills the box around an object, lit from the top left: its colour, texture and a darker rim."""
    hue, saturation, value = (tone + random.uniform(-0.02, 0.02) for tone in TONES[thing.colour])
    light = rgb(hue - 0.015, 0.78 * saturation, 1.1 * value)
    base = rgb(hue, saturation, value)
    dark = rgb(hue + 0.015, 1.1 * saturation + 0.02, 0.8 * value)
    body = blend((light, base, base, dark), (box[2] - box[0], box[3] - box[1]))
    if thing.texture in PATTERNS:
        pattern = canvas.mask(PATTERNS[thing.texture](thing, random)).crop(box)
        body.paste(_second_tone(thing.colour, hue, saturation, value), mask=pattern)
    if thing.shape == "flower":
        heart = HEART_OF_YELLOW_FLOWERS if thing.colour in ("yellow", "orange", "white") else HEART_OF_FLOWERS
        body.paste(heart, mask=canvas.discs([(thing.x, thing.y, 0.3 * thing.radius)]).crop(box))
    rim = canvas.mask(lambda pen, side: _trace(pen, outline, side, width=0.1 * thing.radius)).crop(box)
    body.paste(dark, mask=rim.point(fade(0.55)))
    return body


def _second_tone(colour: str, hue: float, saturation: float, value: float) -> Colour:
    """The colour of stripes, dots and checks: cream on strong colours, a deep tone on pale ones."""
    if colour in ("white", "yellow", "pink"):
        return rgb(hue, min(saturation + 0.25, 0.8), 0.62 * value)
    return rgb(hue, 0.16 * saturation, 0.99)


def _draw_shadow(canvas: Canvas, alpha: Image.Image, radius: float) -> None:
    shifted = Image.new("L", alpha.size)
    shifted.paste(alpha, (round(0.02 * canvas.size), round(0.035 * canvas.size)))
    canvas.paint(SHADOW, canvas.blur(shifted, 0.012 + 0.06 * radius), opacity=0.42)


def _place(outline: Outline, thing: Object) -> Outline:
    """The outline in units of the image's side."""
    c, s = math.cos(thing.angle) * thing.radius, math.sin(thing.angle) * thing.radius
    return [(thing.x + c * x - s * y, thing.y + s * x + c * y) for x, y in outline]


def _bounds(outline: Outline, size: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom in pixels, a pixel wider than the outline, inside the image."""
    xs, ys = zip(*outline, strict=True)
    left, top = math.floor(min(xs) * size) - 1, math.floor(min(ys) * size) - 1
    right, bottom = math.ceil(max(xs) * size) + 1, math.ceil(max(ys) * size) + 1
    return max(left, 0), max(top, 0), min(right, size), min(bottom, size)


def _trace(pen: ImageDraw.ImageDraw, outline: Outline, side: int, width: float) -> None:
    points = [(x * side, y * side) for x, y in (*outline, outline[0])]
    pen.line(points, fill=255, width=max(1, round(width * side)))
