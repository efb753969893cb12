"""Facts of kdx/data/synthetic/scene.py: what scenes hold and how captions speak of them."""

from random import Random

import numpy as np
import pytest

from kdx.data.synthetic.scene import (
    BACKGROUNDS,
    CLASSES,
    RELATIONS,
    TEMPLATES,
    Scene,
    random_scene,
    write_caption,
)

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


def test_most_captions_name_the_main_shape_and_many_its_colour(scenes: Scenes) -> None:
    words = {"circle": ("circle", "disc"), "flower": ("flower", "blossom")}
    shapes = [any(word in text for word in words.get(s.main.shape, (s.main.shape,))) for s, text in scenes]
    colours = [scene.main.colour in text for scene, text in scenes]
    assert 0.9 < np.mean(shapes) < 1 and 0.6 < np.mean(colours) < 0.9


def test_each_background_relation_and_a_lone_object_occur(scenes: Scenes) -> None:
    assert {scene.background for scene, _ in scenes} == set(BACKGROUNDS)
    assert {scene.other and scene.other[0] for scene, _ in scenes} == {None, *RELATIONS}


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
        others = [] if scene.other is None else [(scene.other[1], 1e-9)]
        for thing, cut in [(scene.main, scene.main.radius / 4), *others]:
            assert min(thing.x, thing.y) - thing.radius >= -cut
            assert max(thing.x, thing.y) + thing.radius <= 1 + cut


def test_a_scene_depends_on_its_seed_alone(scenes: Scenes) -> None:
    assert _draw_scenes() == scenes
    assert len({repr(scene) for scene, _ in scenes}) == NUM_SCENES
