"""Facts of kdx/evaluate/retrieval.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kdx.core.encoder import Encoder
from kdx.core.errors import DataError
from kdx.evaluate import Proportion, evaluate_retrieval, metrics
from kdx.evaluate.retrieval import score_retrieval

MakeImage = Callable[[str], bytes]


def _giving(encoder: Encoder, vectors: np.ndarray) -> Encoder:
    """The encoder, made to give the vector of a text's number."""
    encoder.embed_texts = lambda texts, batch_size=0: vectors[[int(text) for text in texts]]  # type: ignore[method-assign]
    return encoder


def test_both_directions_by_hand(encoder: Encoder, make_image: MakeImage) -> None:
    # red finds its first caption; green's captions speak of blue and of nothing; blue finds its own
    images = [make_image(colour) for colour in ("red", "green", "blue")]
    captions = [("a red thing", "something"), ("a blue thing", "anything"), ("blue",)]
    result = evaluate_retrieval(encoder, images, captions)
    assert result.protocol == "3 images × 5 captions"
    # green: all cosines are 0, and of equal ones its caption, third of five, comes third
    # blue: "a blue thing" of the green image is as near as its own caption and comes before it
    assert result.image_to_text[1] == Proportion(1, 3)
    assert result.image_to_text[5] == Proportion(3, 3)
    # "a red thing" finds red; "something" ties and finds red, the first; "a blue thing" finds blue, which is
    # wrong; "anything" ties and finds red, wrong; "blue" finds blue
    assert result.text_to_image[1] == Proportion(3, 5)
    assert result.mean_recall[1] == pytest.approx((1 / 3 + 3 / 5) / 2)


def test_ranks_by_hand(encoder: Encoder) -> None:
    # one image a unit vector of its own; the captions' ranks among the images are 1, 2, 3 and 1
    images = np.eye(3, dtype=np.float32)
    vectors = np.array([[9, 1, 0], [9, 5, 1], [9, 8, 1], [1, 0, 9]], dtype=np.float32)
    result = score_retrieval(_giving(encoder, vectors).embed_texts, images, [["0"], ["1"], ["2", "3"]])
    assert result.image_ranks.tolist() == [0, 1, 2, 0] and result.owners.tolist() == [0, 1, 2, 2]
    assert result.to_image.mean_rank.value == 7 / 4 and result.to_image.median_rank.value == 1.5
    assert result.to_image.median_rank.interval[0] == 1.0
    # of the images' captions: 0 ties with 1 and 2 and comes first; 1 is behind 2; 3 is first
    assert result.caption_ranks.tolist() == [0, 1, 0]
    assert result.to_text.mean_rank.value == pytest.approx(4 / 3) and result.to_text.median_rank.value == 1.0


def test_captions_that_rise_and_fall_with_their_image_widen_the_interval(encoder: Encoder) -> None:
    # 40 images of which 20 are found by all of their five captions: 200 trials, worth no more than 40
    images = np.eye(40, dtype=np.float32)
    vectors = np.concatenate([np.repeat(images[:20], 5, axis=0), np.repeat(images[:1], 100, axis=0)])
    captions = [[str(5 * row + n) for n in range(5)] for row in range(40)]
    recall = score_retrieval(_giving(encoder, vectors).embed_texts, images, captions).text_to_image[1]
    assert (recall.hits, recall.total) == (100, 200)
    low, high = recall.interval
    width_of_40 = 2 * 1.96 * np.sqrt(0.5 * 0.5 / 40)
    assert high - low == pytest.approx(width_of_40, rel=0.1)
    independent = Proportion(100, 200).interval
    assert high - low > 2 * (independent[1] - independent[0])


def test_one_caption_an_image_has_wilsons_interval(encoder: Encoder) -> None:
    vectors = np.eye(4, dtype=np.float32)
    result = score_retrieval(_giving(encoder, vectors).embed_texts, vectors, [[str(n)] for n in range(4)])
    assert result.text_to_image[1].interval == Proportion(4, 4).interval


def test_equal_captions_are_embedded_once_and_count_by_position(encoder: Any, make_image: MakeImage) -> None:
    result = evaluate_retrieval(encoder, [make_image("red")] * 4, [["red"]] * 4)
    assert encoder.texts_embedded == 1
    assert result.image_to_text[1] == result.text_to_image[1] == Proportion(1, 4)


def test_blocks_of_any_size_give_the_same(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    images = random.integers(-2, 3, (23, 6)).astype(np.float32)  # small integers: sums are exact
    vectors = random.integers(-2, 3, (60, 6)).astype(np.float32)
    counts = [1, 2, 3, 4, 3] * 5
    captions, number = [], 0
    for count in counts[:23]:
        captions.append([str((number + i) % 60) for i in range(count)])
        number += count
    _giving(encoder, vectors)
    whole = score_retrieval(encoder.embed_texts, images, captions)
    monkeypatch.setattr(metrics, "MAX_SCORES", 1)
    assert score_retrieval(encoder.embed_texts, images, captions) == whole
    assert (whole.image_to_text, whole.text_to_image) == _by_sorting(images, vectors, captions)


def _by_sorting(
    images: np.ndarray, vectors: np.ndarray, captions: list[list[str]]
) -> tuple[dict[int, Proportion], dict[int, Proportion]]:
    """The same from a stable sort of the whole matrix."""
    flat = [(i, int(text)) for i, own in enumerate(captions) for text in own]
    scores = images @ vectors[[text for _, text in flat]].T
    by_image = np.argsort(-scores, axis=1, kind="stable")
    by_text = np.argsort(-scores.T, axis=1, kind="stable")
    image_to_text = {
        k: Proportion(
            sum(any(flat[j][0] == i for j in by_image[i, :k]) for i in range(len(images))), len(images)
        )
        for k in (1, 5, 10)
    }
    text_to_image = {
        k: Proportion(sum(owner in by_text[j, :k] for j, (owner, _) in enumerate(flat)), len(flat))
        for k in (1, 5, 10)
    }
    return image_to_text, text_to_image


@pytest.mark.parametrize(("captions", "number"), [([["red"]], "1"), ([["red"], []], ""), ([], "0")])
def test_captions_that_do_not_fit_are_refused(
    encoder: Encoder, make_image: MakeImage, captions: list[list[str]], number: str
) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_retrieval(encoder, [make_image("red")] * 2, captions)
    assert number in caught.value.what


def test_nan_is_refused(encoder: Encoder) -> None:
    with pytest.raises(DataError):
        score_retrieval(
            _giving(encoder, np.full((1, 4), np.nan, np.float32)).embed_texts,
            np.zeros((1, 4), np.float32),
            [["0"]],
        )
