"""Facts of kdx/evaluate/zero_shot.py."""

from collections.abc import Callable

import numpy as np
import pytest

from kdx.core.encoder import Encoder
from kdx.core.errors import DataError, UsageError
from kdx.evaluate import Proportion, class_weights, evaluate_zero_shot
from kdx.evaluate.zero_shot import score_zero_shot

MakeImage = Callable[[str], bytes]
CLASSES = ["red", "green", "blue"]


def test_class_weights_are_the_normalised_mean_of_the_prompts(encoder: Encoder) -> None:
    # the second template names red beside the class, so blue's mean direction lies between blue and both
    weights = class_weights(encoder, ["red", "blue"], ["{}", "{} red"])
    assert weights.dtype == np.float32
    blue = np.array([0, 0, 1, 0]) + np.array([1, 0, 1, 0]) / np.sqrt(2)
    expected = [[1, 0, 0, 0], blue / np.linalg.norm(blue)]
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_no_classes_are_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError):
        class_weights(encoder, [], ["{}"])


def test_accuracy_is_the_share_of_right_classes(encoder: Encoder, make_image: MakeImage) -> None:
    images = [make_image(colour) for colour in ("red", "green", "blue", "blue")]
    result = evaluate_zero_shot(encoder, images, [0, 1, 2, 0], CLASSES, ["{}"])
    assert result.top1 == Proportion(3, 4)
    assert result.top5 is None  # three classes
    assert result.mean_per_class == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert result.protocol == "4 images, 3 classes, 1 templates"


def test_classes_without_an_image_do_not_count_in_the_mean_per_class(
    encoder: Encoder, make_image: MakeImage
) -> None:
    result = evaluate_zero_shot(encoder, [make_image("red")], [0], CLASSES, ["{}"])
    assert result.mean_per_class == 1.0


def test_top5_counts_the_first_five_of_more_classes() -> None:
    weights = np.eye(6, dtype=np.float32)
    images = np.array([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1]] * 2, dtype=np.float32)
    result = score_zero_shot(images, np.array([4, 5]), weights, num_templates=1)
    assert (result.top1, result.top5) == (Proportion(0, 2), Proportion(1, 2))


@pytest.mark.parametrize(("labels", "number"), [([0, 3], "3"), ([0, -1], "-1"), ([0], "2 images")])
def test_labels_that_do_not_fit_are_refused(
    encoder: Encoder, make_image: MakeImage, labels: list[int], number: str
) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_zero_shot(encoder, [make_image("red")] * 2, labels, CLASSES, ["{}"])
    assert number in caught.value.what


def test_a_set_without_images_is_refused(encoder: Encoder) -> None:
    with pytest.raises(DataError):
        evaluate_zero_shot(encoder, [], [], CLASSES, ["{}"])


def test_nan_is_refused_and_not_counted_as_right() -> None:
    images = np.full((1, 2), np.nan, dtype=np.float32)
    with pytest.raises(DataError):
        score_zero_shot(images, np.array([0]), np.eye(2, dtype=np.float32), num_templates=1)
