"""Facts of kdx/evaluate/classifier.py."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.progress import silent
from kdx.evaluate.classifier import classifier
from kdx.evaluate.sharing import Alone, Workplace
from kdx.evaluate.zero_shot import class_weights

NAMES, TEMPLATES = ["red", "green", "blue"], ["{}", "a {}"]
WORK = Workplace(Alone(), None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path))
    return tmp_path / "classifiers"


def _classifier(encoder: Any, names: list[str] = NAMES, templates: list[str] = TEMPLATES) -> np.ndarray:
    return classifier(encoder, names, templates, WORK, silent)


def test_it_is_made_once_for_a_model_its_names_and_templates(encoder: Any, cache: Path) -> None:
    encoder.identity = "a"
    first = _classifier(encoder)
    made = encoder.texts_embedded
    assert made == 6
    np.testing.assert_array_equal(_classifier(encoder), first)
    assert encoder.texts_embedded == made
    for change in ({"templates": ["{}"]}, {"names": ["red", "blue", "green"]}):
        before = encoder.texts_embedded
        _classifier(encoder, **change)
        assert encoder.texts_embedded > before
    encoder.identity = "b"
    before = encoder.texts_embedded
    np.testing.assert_array_equal(_classifier(encoder), first)
    assert encoder.texts_embedded == before + 6


def test_a_damaged_file_is_made_anew(encoder: Any, cache: Path) -> None:
    encoder.identity = "a"
    first = _classifier(encoder)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:100], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        file.write_bytes(damaged)
        before = encoder.texts_embedded
        np.testing.assert_array_equal(_classifier(encoder), first)
        assert encoder.texts_embedded == before + 6
        assert file.read_bytes() == whole


def test_nothing_is_kept_of_a_model_that_cannot_be_told_from_others(encoder: Any, cache: Path) -> None:
    assert encoder.identity is None
    _classifier(encoder)
    assert not cache.exists()


def test_without_a_place_to_write_it_is_made_each_time(
    encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "file"))
    encoder.identity = "a"
    np.testing.assert_array_equal(_classifier(encoder), class_weights(encoder, NAMES, TEMPLATES))


def test_pieces_of_the_classes_give_what_all_at_once_give(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdx.evaluate.classifier.TEXTS_A_PIECE", 2)
    np.testing.assert_array_equal(_classifier(encoder), class_weights(encoder, NAMES, TEMPLATES))


def test_processes_of_which_one_finds_it_kept_wait_for_each_other_as_often(
    encoder: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdx.evaluate.classifier.TEXTS_A_PIECE", 2)  # three pieces
    encoder.identity = "a"
    expected = class_weights(encoder, NAMES, TEMPLATES)
    barrier = threading.Barrier(2, timeout=30)
    waits: Counter[int] = Counter()

    class Rank(Alone):
        def wait(self) -> None:
            waits[self.rank] += 1
            barrier.wait()

    found = iter([None, expected])  # another evaluation has written it between the two looks
    monkeypatch.setattr("kdx.evaluate.classifier._read", lambda *_: next(found))
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(
                lambda rank: classifier(
                    encoder, NAMES, TEMPLATES, Workplace(Rank(rank, 2), tmp_path), silent
                ),
                range(2),
            )
        )
    for weights in made:
        np.testing.assert_array_equal(weights, expected)
    assert waits[0] == waits[1] > 0
