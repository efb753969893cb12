"""Facts of kdx/data/scene.py and drawing.py: what scenes hold, how captions speak of them, what is drawn."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from kdx.data.drawing import draw_scene
from kdx.data.scene import CLASSES, TEMPLATES, Scene, random_scene, write_caption

NUM_SCENES = 4000

Scenes = list[tuple[Scene, str]]


def _draw_scenes() -> Scenes:
    pairs: Scenes = []
    for seed in range(NUM_SCENES):
        random = Random(seed)
        scene = random_scene(random)
        pairs.append((scene, write_caption(scene, random)))
    return pairs


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return _draw_scenes()


def test_captions_are_short_lower_case_phrases(scenes: Scenes) -> None:
    for _, caption in scenes:
        assert caption == caption.lower() == caption.strip()
        assert 1 <= len(caption.split()) <= 25
        assert not caption.endswith(".") and "  " not in caption and "{" not in caption


def test_captions_vary(scenes: Scenes) -> None:
    assert len({caption for _, caption in scenes}) >= 1000


def test_captions_are_partial_so_that_one_scene_has_many(scenes: Scenes) -> None:
    scene = scenes[0][0]
    assert len({write_caption(scene, Random(seed)) for seed in range(50)}) > 10


def test_labels_are_the_classes_alike_often(scenes: Scenes) -> None:
    counts = np.bincount([scene.label for scene, _ in scenes], minlength=len(CLASSES))
    expected = NUM_SCENES / len(CLASSES)
    assert len(counts) == len(CLASSES)
    assert (abs(counts - expected) < 6 * expected**0.5).all()  # six standard deviations


def test_classes_are_distinct_and_fit_the_templates() -> None:
    assert len(set(CLASSES)) == len(CLASSES) > 1
    assert all(name and name == name.lower().strip() for name in CLASSES)
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_objects_lie_inside_the_image_and_the_main_one_is_cut_by_a_sliver_at_most(scenes: Scenes) -> None:
    for scene, _ in scenes:
        things = [(scene.main, scene.main.radius / 4), *((other, 1e-9) for _, other in scene.others)]
        for thing, cut in things:
            assert min(thing.x, thing.y) - thing.radius >= -cut
            assert max(thing.x, thing.y) + thing.radius <= 1 + cut


def test_a_scene_depends_on_its_seed_alone(scenes: Scenes) -> None:
    assert _draw_scenes() == scenes
    assert len({repr(scene) for scene, _ in scenes}) == NUM_SCENES


def test_what_is_drawn_is_the_scene_in_any_size(scenes: Scenes) -> None:
    for scene, _ in scenes[:40]:
        for size in (16, 50):
            image = draw_scene(scene, size, Random(1))
            assert image.size == (size, size) and image.mode == "RGB"
            assert image.tobytes() == draw_scene(scene, size, Random(1)).tobytes()
        pixels = np.asarray(draw_scene(scene, 64, Random(1)), dtype=int)
        without = replace(scene, main=replace(scene.main, radius=0.001))
        changed = abs(pixels - np.asarray(draw_scene(without, 64, Random(1)), dtype=int)).max(axis=2) > 8
        assert changed.mean() > 0.3 * scene.main.radius**2  # a good part of the main object's disc
