"""Facts of kdx/evaluate/agreement.py on a set whose colours one encoder mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.errors import DataError
from kdx.data.shards import Sample, write_shards
from kdx.evaluate import Evaluation, Proportion, evaluate_dataset
from kdx.evaluate.agreement import compare_evaluations
from kdx.evaluate.paired import Discordance

NAMES = ["red", "green", "blue"]


class _BlindToBlue:
    """Sees blue as green."""

    def __init__(self, encoder: Any) -> None:
        self._encode, encoder.encode_image = encoder.encode_image, self.encode_image

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.copy()
        pixels[:, 1] = np.maximum(pixels[:, 1], pixels[:, 2])
        pixels[:, 2] = 0
        return self._encode(pixels)


@pytest.fixture
def evaluations(
    encoder: Any, tmp_path: Path, make_image: Callable[[str], bytes]
) -> Callable[..., tuple[Evaluation, Evaluation]]:
    """Of the encoder and of the same one blind to blue, on `count` images of red, green, blue, red …"""

    def make(count: int = 9) -> tuple[Evaluation, Evaluation]:
        samples = [
            Sample(
                f"{row:03d}", make_image(NAMES[row % 3]), (NAMES[row % 3], f"a {NAMES[row % 3]} one"), row % 3
            )
            for row in range(count)
        ]
        write_shards(tmp_path, "val", samples)
        (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        seeing = evaluate_dataset(encoder, tmp_path)
        _BlindToBlue(encoder)
        return seeing, evaluate_dataset(encoder, tmp_path)

    return make


def test_images_of_the_colour_that_one_model_mistakes_make_the_difference(
    evaluations: Callable[..., tuple[Evaluation, Evaluation]],
) -> None:
    found = compare_evaluations(*evaluations(9)).zero_shot
    assert found is not None and found.num_images == 9
    assert found.top1 == Discordance(both=6, only_first=3, only_second=0, neither=0)
    assert found.top1.p_value == pytest.approx(2 / 2**3)
    assert (found.mean_per_class.first, found.mean_per_class.second) == (1.0, pytest.approx(2 / 3))
    # of sets drawn anew one in twenty lacks red or green, and has two classes of which one is mistaken
    assert found.mean_per_class.interval[0] == -1 / 2
    assert found.same_class == Proportion(6, 9)
    assert found.top5 is None  # there are three classes


def test_recalls_are_compared_query_by_query(
    evaluations: Callable[..., tuple[Evaluation, Evaluation]],
) -> None:
    first, second = evaluations(3)
    found = compare_evaluations(first, second).retrieval
    assert found is not None and first.retrieval is not None and second.retrieval is not None
    for k in (1, 5, 10):
        assert found.image_to_text[k].first == first.retrieval.image_to_text[k].value
        assert found.text_to_image[k].second == second.retrieval.text_to_image[k].value
        assert found.mean_recall[k].second == pytest.approx(second.retrieval.mean_recall[k])
    # both captions of the one blue image are lost, of six
    assert found.text_to_image[1].value == pytest.approx(-2 / 6)
    low, high = found.text_to_image[1].interval
    assert low == -1 and high == 0  # a set drawn anew may be of blue images alone, or have none


def test_an_images_captions_are_drawn_together(
    evaluations: Callable[..., tuple[Evaluation, Evaluation]],
) -> None:
    """Two captions that are found or lost together tell no more than one: with one lost image of three, thirds."""
    found = compare_evaluations(*evaluations(3)).retrieval
    assert found is not None
    lost = (
        -np.random.default_rng(0).binomial(3, 1 / 3, 200_000) / 3
    )  # how many of three draws are the blue image
    expected = np.percentile(lost, (2.5, 97.5))
    assert found.text_to_image[1].interval == pytest.approx(tuple(expected))


def test_a_model_agrees_with_itself(evaluations: Callable[..., tuple[Evaluation, Evaluation]]) -> None:
    first, _ = evaluations()
    found = compare_evaluations(first, first)
    assert found.same_weights and found.zero_shot is not None
    assert found.zero_shot.same_class == Proportion(9, 9) and found.zero_shot.top1.p_value == 1


def test_only_images_that_both_could_read_are_compared(
    evaluations: Callable[..., tuple[Evaluation, Evaluation]],
) -> None:
    first, second = evaluations(9)
    assert second.zero_shot is not None
    keep = np.array([8, 2, 0])  # in another order, without most
    fewer = _with_zero_shot(second, keep)
    found = compare_evaluations(first, fewer).zero_shot
    assert found is not None and found.top1 == Discordance(both=1, only_first=2, only_second=0, neither=0)
    with pytest.raises(DataError):
        compare_evaluations(first, _with_zero_shot(second, keep, prefix="another "))


def _with_zero_shot(evaluation: Evaluation, rows: np.ndarray, prefix: str = "") -> Evaluation:
    from dataclasses import replace

    scored = evaluation.zero_shot
    assert scored is not None
    arrays = {name: getattr(scored, name)[rows] for name in ("labels", "predictions", "ranks")}
    keys = [prefix + evaluation.labelled_keys[row] for row in rows]
    return replace(evaluation, zero_shot=replace(scored, **arrays), labelled_keys=keys, retrieval=None)


def test_to_dict_is_json(evaluations: Callable[..., tuple[Evaluation, Evaluation]]) -> None:
    document = json.loads(json.dumps(compare_evaluations(*evaluations()).to_dict()))
    assert document["zero_shot"]["top1"]["only_first"] == 3
    assert document["zero_shot"]["same_class"]["hits"] == 6
    assert set(document["retrieval"]["mean_recall"]) == {"recall@1", "recall@5", "recall@10"}
