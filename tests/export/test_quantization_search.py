"""Facts of export/quantization_search.py: what is tried and kept, with qualities made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdx.export import quantization_search as search
from kdx.export.quantization_search import Quality

GOOD, BAD = Quality(0.001, 0.01, 0.0), Quality(0.02, 0.2, 0.1)


def test_enough_in_every_respect_comes_before_better_in_one() -> None:
    assert GOOD.suffices and not BAD.suffices
    odd_image = Quality(0.0001, 0.3, 0.0)
    wrong_choices = Quality(0.0001, 0.01, 0.02)
    lost = Quality(0.02, 0.03, 0.0)
    assert not (odd_image.suffices or wrong_choices.suffices or lost.suffices)
    assert max([odd_image, wrong_choices, lost, BAD, GOOD], key=lambda quality: quality.rank) is GOOD
    assert Quality(0.0009, 0.01, 0.003).rank > GOOD.rank  # one choice of hundreds is chance
    assert Quality(0.02, 0.2, 0.09).rank > BAD.rank


class _Attempts:
    """Layers a … p, of which `harmful` hurt and so do the elementwise nodes, if `between_hurts`."""

    def __init__(self, harmful: str, *, has_between: bool = False, between_hurts: bool = False) -> None:
        self.harmful, self.has_between, self.between_hurts = harmful, has_between, between_hurts
        self.plan = SimpleNamespace(layers=tuple("abcdefghijklmnop"))
        self.tower: Any = SimpleNamespace(
            held_back=[np.zeros(40)], source="", embed=lambda *_: np.zeros((40, 2), np.float32)
        )
        self.tried: list[tuple[str, bool]] = []

    def damage(self, _method: str, layer: str, *_: object) -> float:
        return 1.0 + ord(layer) if layer in self.harmful else 0.0

    def quality(self, _method: str, floating: frozenset[str], between: bool) -> Quality:
        self.tried.append(("".join(sorted(floating)), between))
        bad = set(self.harmful) - floating or (between and self.between_hurts)
        return BAD if bad else GOOD


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_open", lambda *_: None)


def test_the_layers_that_hurt_stay_in_float_and_no_others_are_tried() -> None:
    attempts = _Attempts("bd")
    found = search._leave_in_float(attempts, "MinMax", BAD)  # pyright: ignore[reportArgumentType]
    assert found.floating == {"b", "d"} and found.quality is GOOD
    assert attempts.tried == [("d", False), ("bd", False)]


def test_what_suffices_is_left_alone() -> None:
    attempts = _Attempts("b", has_between=True)
    found = search._leave_in_float(attempts, "MinMax", GOOD)  # pyright: ignore[reportArgumentType]
    assert (found.floating, found.between, attempts.tried) == (frozenset(), True, [])


def test_elementwise_nodes_are_given_up_after_layers() -> None:
    attempts = _Attempts("b", has_between=True, between_hurts=True)
    found = search._leave_in_float(attempts, "MinMax", BAD)  # pyright: ignore[reportArgumentType]
    assert found.floating == {"b"} and not found.between
    assert attempts.tried[-2:] == [("", False), ("b", False)]


def test_the_attempts_end_where_half_of_the_layers_are_in_float() -> None:
    attempts = _Attempts("abcdefghijkl")
    found = search._leave_in_float(attempts, "MinMax", BAD)  # pyright: ignore[reportArgumentType]
    assert found.quality is BAD
    assert [len(floating) for floating, _ in attempts.tried] == [1, 2, 4, 8]


def test_texts_are_batched_by_length_and_put_back_in_order() -> None:
    texts = search._Texts(
        np.array([[7, 0, 9, 0], [7, 9, 0, 0], [7, 1, 2, 9], [7, 3, 9, 0]], np.int32), np.array([3, 2, 4, 3])
    )
    batches = texts.batches()  # the token 0 is a piece of text too
    assert [batch.tolist() for batch in batches] == [[[7, 9]], [[7, 0, 9], [7, 3, 9]], [[7, 1, 2, 9]]]
    sums = np.concatenate([batch.sum(axis=1, keepdims=True) for batch in batches]).astype(np.float32)
    assert texts.in_order(sums).ravel().tolist() == [16, 16, 19, 19]
