"""Facts of export/comparison.py, on vectors worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdx.export.comparison import (
    Embeddings,
    check_agreement,
    check_direction,
    compare,
    decide,
    distances,
    mean_pairwise_cosine,
    samples_missing,
)
from kdx.export.report import Verdict
from kdx.runtime.formats import LIMITS, Limits

INT8 = LIMITS["int8"]


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def _cone(count: int, width: float, seed: int = 0) -> np.ndarray:
    """Unit rows around one direction."""
    random = np.random.default_rng(seed)
    return _unit(np.eye(1, 32) + width * random.standard_normal((count, 32)) / np.sqrt(32))


def test_mean_pairwise_cosine_is_that_of_all_pairs() -> None:
    rows = _cone(7, 0.5)
    pairs = [float(rows[i] @ rows[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_pairwise_cosine(rows) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert mean_pairwise_cosine(np.eye(4, dtype=np.float32)) == pytest.approx(0, abs=1e-7)
    assert mean_pairwise_cosine(rows[:1]) == 0


def test_a_cosine_distance_is_of_angles_and_not_of_norms() -> None:
    rows = _cone(50, 0.5)
    longer = rows * np.float32(1 + 5e-6)  # what the gate's check of norms admits in fp32
    assert abs(1 - distances(rows, longer)["min_cosine"]) < 1e-12
    turned = rows.copy()
    turned[:, :2] = np.stack([-rows[:, 1], rows[:, 0]], axis=1)  # by a right angle in a plane
    expected = 1 - np.einsum("nd,nd->n", rows[:, 2:], rows[:, 2:]).min()
    assert 1 - distances(rows, turned)["min_cosine"] == pytest.approx(expected, abs=1e-6)


def test_a_dead_model_passes_by_cosine_and_fails_by_centred_cosine_and_as_collapsed() -> None:
    alive = _cone(400, 0.08)  # mean pairwise cosine 0.994
    dead = np.repeat(_unit(alive.mean(axis=0, keepdims=True)), 400, axis=0)
    numbers = distances(alive, dead)
    assert 1 - numbers["min_cosine"] < INT8.cosine_distance
    assert numbers["centred_cosine_distance_p50"] > 0.5
    check = check_direction("image", alive, dead)
    assert check.verdict is Verdict.FAIL and "one direction" in check.detail
    assert check_direction("image", alive, alive).verdict is Verdict.PASS


def test_a_single_sample_has_no_mean_to_be_centred_on() -> None:
    row = _cone(1, 0.5)
    assert distances(row, row)["centred_cosine_distance_p50"] == 0


def test_a_reference_that_collapsed_is_named_where_something_fails() -> None:
    reference = Embeddings(_cone(400, 0.01), _cone(400, 0.01, seed=1), paired=True)
    other = Embeddings(_cone(400, 0.01, seed=2), reference.texts, paired=True)
    _, tiers = compare(reference, other, INT8)
    failing = [check for tier in tiers for check in tier.checks if check.verdict is Verdict.FAIL]
    assert failing and all(
        "reference's own image embeddings lie in one direction" in c.detail for c in failing
    )


def test_a_choice_between_equals_is_no_decision() -> None:
    angles = np.array([0.0, 1.0, 1.001])
    texts = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    images = _unit(np.repeat(np.array([[np.cos(1.0004), np.sin(1.0004)]]), 300, axis=0))
    turned = _unit(np.repeat(np.array([[np.cos(1.0006), np.sin(1.0006)]]), 300, axis=0))
    reference, candidate = Embeddings(images, texts), Embeddings(turned, texts)
    (decisions,) = decide(reference, candidate)
    assert decisions.differ.all() and 0 < decisions.regret.max() < 1e-6
    assert check_agreement(decisions, INT8).verdict is Verdict.PASS
    every = replace(INT8, tie=0.0)
    assert check_agreement(decisions, every).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("count", "wrong", "verdict"),
    [
        (299, 0, "PASS"),
        (298, 0, "INCONCLUSIVE"),
        (473, 1, "PASS"),
        (472, 1, "INCONCLUSIVE"),
        (300, 12, "FAIL"),
    ],
)
def test_decisions_pass_fail_or_are_left_open_by_the_exact_bound(
    count: int, wrong: int, verdict: str
) -> None:
    images = np.repeat(np.eye(2, dtype=np.float32)[:1], count, axis=0)
    turned = images.copy()
    turned[:wrong] = [0, 1]
    texts = np.eye(2, dtype=np.float32)
    (decisions,) = decide(Embeddings(images, texts), Embeddings(turned, texts))
    check = check_agreement(decisions, LIMITS["fp32"])
    assert check.verdict == verdict
    assert verdict != "INCONCLUSIVE" or "1 are missing" in check.detail


def test_what_is_decided_depends_on_classes_and_pairs() -> None:
    rows = np.eye(4, dtype=np.float32)

    def names(**given: object) -> list[str]:
        each = Embeddings(rows, rows, **given)  # pyright: ignore[reportArgumentType]
        return [made.name for made in decide(each, each)]

    assert names() == ["text of an image"]
    assert names(paired=True) == ["text of an image", "image of a text"]
    assert names(classes=rows) == ["class of an image"]
    assert names(classes=rows, paired=True) == ["class of an image", "text of an image", "image of a text"]


def test_the_number_that_is_missing_is_known_before() -> None:
    limits: Limits = LIMITS["fp32"]
    assert samples_missing(299, limits) == 0 == samples_missing(5000, limits)
    assert samples_missing(40, limits) == 259
    assert samples_missing(40, replace(limits, margin=0.002)) == 1497 - 40


def test_a_prefix_is_judged_where_the_model_was_trained_for_it() -> None:
    """The first two of 32 dimensions hold a hundredth of a row, and the candidate has them the wrong way round."""
    random = np.random.default_rng(0)
    rows = _unit(random.standard_normal((400, 32)) * np.where(np.arange(32) < 2, 0.02, 1))
    turned = np.concatenate([rows[:, 1::-1], rows[:, 2:]], axis=1)
    limits = replace(INT8, margin=1.0)
    names = (
        "image cosine_distance of the first 2 dimensions",
        "text cosine_distance of the first 2 dimensions",
    )
    for narrower, failing in (((), set[str]()), ((2, 16), set(names))):
        reference = Embeddings(rows, rows, narrower=narrower)
        numbers, (tier, _) = compare(reference, Embeddings(turned, rows), limits)
        found = {check.name for check in tier.checks if check.verdict is Verdict.FAIL}
        assert found & set(names) == failing & {names[0]}
        assert ("at_widths" in numbers) == bool(narrower)
        assert numbers["image"]["min_cosine"] > 0.99
    assert numbers["at_widths"]["2"]["image"]["min_cosine"] < 0.5
    assert numbers["at_widths"]["2"]["text"]["min_cosine"] == pytest.approx(1, abs=1e-6)
