"""Facts of kdx/core/prompts.py, worked by hand."""

import math

import numpy as np
import pytest

from kdx.core.prompts import best_labels, class_vectors, prompt_texts


def test_prompts_go_label_by_label() -> None:
    assert prompt_texts(["cat", "dog"], ["a {}", "the {}."]) == ["a cat", "the cat.", "a dog", "the dog."]


def test_a_label_is_put_in_as_it_is() -> None:
    assert prompt_texts(["{}", "{0} % \\1"], ["a {}"]) == ["a {}", "a {0} % \\1"]


def test_a_class_vector_is_the_normalised_mean_of_its_prompts() -> None:
    embeddings = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)  # two labels, two templates
    vectors = class_vectors(embeddings, 2)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]), abs=1e-7)


def test_prompts_that_cancel_out_give_zeros_and_not_nan() -> None:
    embeddings = np.array([[1, 0], [-1, 0]], np.float32)
    assert class_vectors(embeddings, 2).tolist() == [[0, 0]]


def test_the_best_labels_come_with_the_softmax_of_all_scaled_cosines() -> None:
    images = np.array([[1, 0], [0, 1]], np.float32)
    vectors = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    first = [math.e**2, 1, 1]
    second = [math.e**2, 1, math.e**-2]
    expected = [[value / sum(row) for value in row] for row in (first, second)]
    best, scores = best_labels(images, vectors, 3, 2.0)
    assert best.tolist() == [[0, 1, 2], [1, 0, 2]]  # of equal ones the first
    assert scores == pytest.approx(np.array(expected), abs=1e-6)
    few, their_scores = best_labels(images, vectors, 1, 2.0)
    assert few.tolist() == [[0], [1]] and np.array_equal(their_scores, scores[:, :1])


def test_a_large_scale_overflows_nothing() -> None:
    images = np.array([[1, 0]], np.float32)
    _, scores = best_labels(images, np.array([[1, 0], [-1, 0]], np.float32), 2, 1e4)
    assert scores.dtype == np.float32 and scores.tolist() == [[1, 0]]


def test_of_a_model_with_a_bias_each_label_is_judged_by_itself() -> None:
    images = np.array([[1, 0]], np.float32)
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    expected = [[1 / (1 + math.exp(-logit)) for logit in (2 - 1, 0 - 1, -2 - 1)]]
    assert best_labels(images, vectors, 3, 2.0, -1.0)[1] == pytest.approx(np.array(expected), abs=1e-6)
    assert best_labels(images, vectors, 3, 1e4, -10.0)[1][0, [0, 2]].tolist() == pytest.approx([1, 0])


def test_the_better_of_two_sure_labels_comes_first() -> None:
    """In fp32 a sigmoid is 1 from a logit of 17 on: at SigLIP's scale and bias from a cosine of 0.3 on."""
    images = np.array([[1, 0]], np.float32)
    cosines = np.array([0.32, 0.4, -0.9, -0.8], np.float32)
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    best, scores = best_labels(images, vectors, 4, 112.0, -16.5)
    assert best.tolist() == [[1, 0, 3, 2]] and scores[0, :2].tolist() == [1, 1]
