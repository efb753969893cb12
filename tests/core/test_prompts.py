"""Facts of kdx/core/prompts.py, worked by hand."""

import math

import numpy as np
import pytest

from kdx.core.prompts import class_vectors, label_probabilities, prompt_texts


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


def test_probabilities_are_the_softmax_of_the_scaled_cosines() -> None:
    images = np.array([[1, 0], [0, 1]], np.float32)
    vectors = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    first = [math.e**2, 1, 1]
    second = [1, math.e**2, math.e**-2]
    expected = [[value / sum(row) for value in row] for row in (first, second)]
    assert label_probabilities(images, vectors, 2.0) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_large_scale_overflows_nothing() -> None:
    images = np.array([[1, 0]], np.float32)
    probabilities = label_probabilities(images, np.array([[1, 0], [-1, 0]], np.float32), 1e4)
    assert probabilities.dtype == np.float32 and probabilities.tolist() == [[1, 0]]


def test_of_a_model_with_a_bias_each_label_is_judged_by_itself() -> None:
    images = np.array([[1, 0]], np.float32)
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    expected = [[1 / (1 + math.exp(-logit)) for logit in (2 - 1, 0 - 1, -2 - 1)]]
    assert label_probabilities(images, vectors, 2.0, -1.0) == pytest.approx(np.array(expected), abs=1e-6)
    assert label_probabilities(images, vectors, 1e4, -10.0)[0, [0, 2]].tolist() == pytest.approx([1, 0])
