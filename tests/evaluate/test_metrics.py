"""Facts of kdx/evaluate/metrics.py, worked by hand."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import binomtest

from kdx.core.errors import DataError
from kdx.evaluate.metrics import Proportion, best_ranks, check_embeddings, share_within, target_ranks


def _scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_the_rank_is_the_number_of_better_candidates() -> None:
    scores = _scores([0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5])
    assert target_ranks(scores, np.array([1, 2, 0])).tolist() == [0, 1, 2]


def test_of_equal_scores_the_lower_index_ranks_first() -> None:
    scores = _scores([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert target_ranks(scores, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_an_encoder_that_gives_one_vector_for_all_does_not_beat_guessing() -> None:
    ranks = target_ranks(np.zeros((10, 10), dtype=np.float32), np.arange(10))
    assert share_within(ranks, 1) == Proportion(1, 10)
    assert share_within(ranks, 5) == Proportion(5, 10)


def test_of_several_relevant_candidates_the_best_counts() -> None:
    scores = _scores([0.9, 0.2, 0.8, 0.7], [0.9, 0.2, 0.8, 0.7])
    relevant = np.array([[False, True, False, True], [False, True, False, False]])
    assert best_ranks(scores, relevant).tolist() == [2, 3]


def test_relevant_candidates_do_not_stand_in_each_others_way() -> None:
    scores = _scores([0.3, 0.9, 0.9, 0.9])
    assert best_ranks(scores, np.array([[False, True, True, True]])).tolist() == [0]


@given(st.data())
def test_ranks_equal_a_stable_sort(data: st.DataObject) -> None:
    few = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # many ties
    row = data.draw(st.lists(few, min_size=1, max_size=12))
    target = data.draw(st.integers(0, len(row) - 1))
    sorted_row = sorted(range(len(row)), key=lambda i: -row[i])
    assert target_ranks(_scores(row), np.array([target])).tolist() == [sorted_row.index(target)]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),  # 0.5 ∓ z / (2 √(n + z²))
        (0, 10, 0.0, 0.2775),  # z² / (n + z²)
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # R. G. Newcombe 1998, table I
    ],
)
def test_wilsons_interval(hits: int, total: int, low: float, high: float) -> None:
    assert Proportion(hits, total).interval == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_the_interval_holds_the_value_and_lies_within_0_and_1(total: int, data: st.DataObject) -> None:
    proportion = Proportion(data.draw(st.integers(0, total)), total)
    low, high = proportion.interval
    assert 0 <= low <= proportion.value <= high <= 1
    scipys = binomtest(proportion.hits, total).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_to_dict_says_hits_and_bounds() -> None:
    assert Proportion(5, 10).to_dict() == {
        "value": 0.5,
        "low": pytest.approx(0.236593, abs=1e-5),
        "high": pytest.approx(0.763407, abs=1e-5),
        "hits": 5,
        "total": 10,
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError) as caught:
        check_embeddings(_scores([0.1, bad]), "images")
    assert "images" in caught.value.what
