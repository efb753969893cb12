"""Facts of kdx/evaluate/chance.py: what guessing reaches is told from what it does not."""

from math import comb

import numpy as np
import numpy.typing as npt
import pytest

from kdx.evaluate.chance import ChanceTest, chance_test
from kdx.evaluate.evaluation import Evaluation
from kdx.evaluate.retrieval import RetrievalResult, score_retrieval
from kdx.evaluate.zero_shot import ZeroShotResult, score_zero_shot


def _evaluation(zero_shot: ZeroShotResult | None, retrieval: RetrievalResult | None) -> Evaluation:
    return Evaluation("m", "", "fp32", 32, "set", "", 1, 0, 0, zero_shot, retrieval, [], [])


def _of_labels(labels: list[int], predictions: list[int], classes: int) -> ChanceTest | None:
    corners = np.eye(classes, dtype=np.float32)
    images = corners[predictions]
    return chance_test(
        _evaluation(score_zero_shot(images, np.array(labels, dtype=np.int64), corners, num_templates=1), None)
    )


def test_chance_is_one_in_c_where_all_classes_are_as_frequent() -> None:
    random = np.random.default_rng(0)
    labels = [row % 5 for row in range(200)]
    test = _of_labels(labels, random.integers(5, size=200).tolist(), 5)
    assert test is not None and test.chance == pytest.approx(0.2)


def test_who_always_names_the_most_frequent_class_is_at_chance() -> None:
    labels = [0] * 80 + [1] * 20
    always = _of_labels(labels, [0] * 100, 2)
    assert always is not None and (always.hits, always.chance) == (80, 0.8) and not always.passed
    knowing = _of_labels(labels, labels, 2)
    assert knowing is not None and knowing.passed and knowing.chance == pytest.approx(0.8**2 + 0.2**2)


def test_of_a_single_class_nothing_can_be_told() -> None:
    assert _of_labels([1] * 30, [1] * 30, 3) is None


@pytest.mark.parametrize(("hits", "passed"), [(6, False), (7, True)])
def test_the_bound_is_that_of_the_binomial_distribution(hits: int, passed: bool) -> None:
    tail = 1 - sum(comb(100, k) * 0.02**k * 0.98 ** (100 - k) for k in range(hits))
    assert (tail < 0.01) == passed  # of 100 guesses among 50
    assert ChanceTest("", hits, 100, 0.02).passed == passed


def _of_captions(
    images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32], each: int
) -> ChanceTest | None:
    captions = [[f"{row}-{number}" for number in range(each)] for row in range(len(images))]
    return chance_test(_evaluation(None, score_retrieval(lambda _: texts, images, captions)))


def _unit_rows(seed: int, count: int) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("num_images", "each", "k"), [(30, 2, 1), (80, 3, 10)])
def test_captions_of_chance_and_of_their_images(num_images: int, each: int, k: int) -> None:
    images = _unit_rows(0, num_images)
    blind = _of_captions(images, _unit_rows(1, num_images * each), each)
    assert blind is not None and not blind.passed and blind.metric.endswith(f"@{k}")
    others = num_images * each
    assert blind.chance == pytest.approx(1 - comb(others - each, k) / comb(others, k))
    seeing = _of_captions(images, np.repeat(images, each, axis=0), each)
    assert seeing is not None and seeing.passed and seeing.hits == num_images


def test_a_model_that_maps_everything_to_one_vector_is_at_chance() -> None:
    same = np.tile(_unit_rows(0, 1), (60, 1))
    test = _of_captions(same, np.tile(same, (2, 1)), 2)
    assert test is not None and not test.passed
