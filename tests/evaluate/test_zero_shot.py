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
    assert result.protocol == "4 images, 3 classes, 1 template"


def test_predictions_are_kept_image_by_image(encoder: Encoder, make_image: MakeImage) -> None:
    images = [make_image(colour) for colour in ("red", "blue", "green")]
    result = evaluate_zero_shot(encoder, images, [0, 1, 2], CLASSES, ["{}"])
    assert result.predictions.tolist() == [0, 2, 1] and result.labels.tolist() == [0, 1, 2]
    assert result.ranks.tolist() == [0, 2, 2]  # of two equal cosines the first class comes first


def test_the_interval_of_the_mean_per_class_is_that_of_its_classes() -> None:
    # two classes of 200 images, of which 150 and 100 are right: (0.75 + 0.5) / 2
    labels = np.repeat([0, 1], 200)
    right = np.concatenate([np.arange(200) < 150, np.arange(200) < 100])
    images = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
    result = score_zero_shot(images, labels, np.eye(2, dtype=np.float32), num_templates=1)
    assert result.mean_per_class == 0.625
    error = np.sqrt((0.75 * 0.25 / 200 + 0.5 * 0.5 / 200) / 4)
    low, high = result.mean_per_class_interval
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert (low + high) / 2 == pytest.approx(0.625, abs=0.3 * error)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    images, weights = (random.integers(-2, 3, (n, 6)).astype(np.float32) for n in (50, 9))
    labels = random.integers(0, 9, 50)
    whole = score_zero_shot(images, labels, weights, num_templates=1)
    monkeypatch.setattr("kdx.evaluate.metrics.MAX_SCORES", 20)
    parts = score_zero_shot(images, labels, weights, num_templates=1)
    assert parts == whole and parts.predictions.tolist() == whole.predictions.tolist()


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
