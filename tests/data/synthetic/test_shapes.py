"""Facts of kdx/data/synthetic/shapes.py: signed distances of shapes and textures."""

import numpy as np
import pytest

from kdx.data.synthetic.shapes import SHAPES, TEXTURES, Plane

SIDE = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
X, Y = np.meshgrid(SIDE, SIDE)


def _covered(distance: Plane) -> float:
    """The area inside, in squares of the radius."""
    return float((distance < 0).mean()) * 9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_lies_about_within_its_radius(shape: str) -> None:
    distance = SHAPES[shape](X, Y)
    assert distance.dtype == np.float32 and np.isfinite(distance).all()
    assert 0.8 < _covered(distance) < 3.5
    assert (distance[X**2 + Y**2 > 1.3**2] > 0).all()


def test_areas_are_those_of_the_shapes() -> None:
    assert _covered(SHAPES["circle"](X, Y)) == pytest.approx(np.pi, rel=0.01)
    assert _covered(SHAPES["ring"](X, Y)) == pytest.approx(np.pi * (1 - 0.52**2), rel=0.01)
    assert 0.95 * 1.72**2 < _covered(SHAPES["square"](X, Y)) < 1.72**2  # its corners are rounded


@pytest.mark.parametrize(("shape", "turns"), [("square", 4), ("star", 5), ("flower", 6), ("triangle", 3)])
def test_a_shape_is_the_same_after_a_turn(shape: str, turns: int) -> None:
    angle = 2 * np.pi / turns
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turned = SHAPES[shape](c * X - s * Y, s * X + c * Y)
    apart = abs(turned - SHAPES[shape](X, Y))[X**2 + Y**2 > 0.3]  # the flower's middle is not defined
    assert apart.max() < 0.01


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_covers_a_part_and_repeats(texture: str) -> None:
    distance = TEXTURES[texture](X * 8, Y * 8)
    assert 0.2 < (distance < 0).mean() < 0.6
    period = {"striped": 1.0, "dotted": 1.0, "checkered": 1.24}[texture]
    assert abs(TEXTURES[texture](X * 8 + period, Y * 8) - distance).max() < 0.01
