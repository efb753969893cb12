"""Facts of kdx/data/synthetic/drawing.py: what is drawn is the scene, in any size."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from kdx.data.synthetic.drawing import BACKDROPS, COLOURS, draw_scene
from kdx.data.synthetic.scene import BACKGROUNDS, COLOURS as NAMES, MAIN_SHAPES, Object, Scene, random_scene
from kdx.data.synthetic.shapes import SHAPES

STAR = Object("star", "plain", "red", x=0.5, y=0.5, radius=0.35, angle=0.0)


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(draw_scene(scene, 64, Random(1)), dtype=int)


def test_every_colour_background_and_shape_can_be_drawn() -> None:
    assert (
        set(COLOURS) == set(NAMES) and set(BACKDROPS) == set(BACKGROUNDS) and set(MAIN_SHAPES) <= set(SHAPES)
    )


def test_a_picture_depends_on_scene_size_and_seed_alone() -> None:
    for seed in range(40):
        scene = random_scene(Random(seed))
        for size in (16, 50):
            image = draw_scene(scene, size, Random(1))
            assert image.size == (size, size) and image.mode == "RGB"
            assert image.tobytes() == draw_scene(scene, size, Random(1)).tobytes()
            assert image.tobytes() != draw_scene(scene, size, Random(2)).tobytes()


def test_the_main_object_changes_a_good_part_of_its_disc() -> None:
    for seed in range(40):
        scene = random_scene(Random(seed))
        without = replace(scene, main=replace(scene.main, radius=0.001))
        changed = abs(_pixels(scene) - _pixels(without)).max(axis=2) > 8
        assert changed.mean() > 0.3 * scene.main.radius**2


@pytest.mark.parametrize("colour", NAMES)
def test_the_middle_of_a_plain_object_has_its_colour(colour: str) -> None:
    middle = _pixels(Scene("sky", replace(STAR, colour=colour), None))[30:34, 30:34].mean(axis=(0, 1))
    named = {name: np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) for name, code in COLOURS.items()}
    assert min(named, key=lambda name: abs(middle - named[name]).sum()) == colour


def test_texture_shape_angle_background_and_the_other_object_are_seen() -> None:
    plain = Scene("sky", STAR, None)
    for other in (
        replace(plain, main=replace(STAR, texture="striped")),
        replace(plain, main=replace(STAR, texture="dotted")),
        replace(plain, main=replace(STAR, shape="heart")),
        replace(plain, main=replace(STAR, angle=0.3)),
        replace(plain, background="night"),
        replace(plain, other=("left", replace(STAR, x=0.85, radius=0.12, colour="blue"))),
    ):
        assert (abs(_pixels(plain) - _pixels(other)).max(axis=2) > 30).mean() > 0.02
