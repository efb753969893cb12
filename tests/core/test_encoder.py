"""Facts of kdx/core/encoder.py: batching and the specification, with an encoder that can be followed by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.encoder import Encoder, EncoderSpec, FloatArray, IntArray, check_tokens
from kdx.core.errors import DataError, UsageError
from kdx.models.clip_vocabulary import clip_tokenizer

SPEC = EncoderSpec(
    name="by hand",
    embed_dim=2,
    image_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    interpolation="bicubic",
    resize_mode="squash",
    context_length=16,
    vocab_size=49408,
    logit_scale=100.0,
    logit_bias=0.0,
    model_digest="m",
    preprocess_digest="p",
    tokenizer_digest="t",
)


class _Encoder(Encoder):
    """An image's vector is its mean pixel, a text's the number of its tokens."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.preprocess = SPEC.preprocess()
        self.tokenizer = clip_tokenizer()
        self.shapes: list[tuple[int, ...]] = []
        self.closed = 0

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        self.shapes.append(pixels.shape)
        return np.stack([pixels.mean(axis=(1, 2, 3)), np.ones(len(pixels), np.float32)], axis=1)

    def encode_text(self, tokens: IntArray) -> FloatArray:
        self.shapes.append(tokens.shape)
        lengths = (tokens > 0).sum(axis=1)
        return np.stack([lengths, np.ones(len(tokens))], axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed += 1


def test_images_are_encoded_in_batches_in_their_order(make_photo: Callable[..., bytes]) -> None:
    encoder = _Encoder()
    photos = [make_photo(seed) for seed in range(7)]
    embeddings = encoder.embed_images(iter(photos), batch_size=3)  # any iterable
    assert encoder.shapes == [(3, 3, 8, 8), (3, 3, 8, 8), (1, 3, 8, 8)]
    expected = [encoder.preprocess(photo).mean() for photo in photos]
    assert embeddings[:, 0] == pytest.approx(expected, abs=1e-6)


def test_texts_come_back_in_their_order_and_short_ones_are_not_padded_to_long_ones() -> None:
    encoder = _Encoder()
    words = [5, 1, 3, 1, 40, 2]
    embeddings = encoder.embed_texts(["cat " * count for count in words], batch_size=2)
    assert embeddings[:, 0].tolist() == [7, 3, 5, 3, 16, 4]  # start and end, at most the context length
    assert encoder.shapes == [(2, 3), (2, 5), (2, 16)]


def test_texts_that_are_cut_are_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    encoder = _Encoder()
    caplog.clear()  # of what its making tells
    texts = ["cat " * 14, "cat " * 15, "cat " * 40]  # beside start and end, 14 find room
    encoder.embed_texts(texts, batch_size=1)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts were longer than the 16 tokens that by hand reads, and were cut"
    ]
    caplog.clear()
    encoder.embed_texts(texts[:1])
    assert encoder.embed_and_count(texts)[1] == 2
    assert not caplog.records


def test_nothing_gives_no_rows_of_the_right_width() -> None:
    encoder = _Encoder()
    for empty in (encoder.embed_images([]), encoder.embed_texts([])):
        assert empty.shape == (0, 2) and empty.dtype == np.float32


def test_a_bad_image_among_good_ones_is_bad_data(make_photo: Callable[..., bytes]) -> None:
    with pytest.raises(DataError) as caught:
        _Encoder().embed_images([make_photo(0), make_photo(1), b"no image"], batch_size=2)
    assert caught.value.where == "images[2]"


def test_the_best_labels_come_with_their_probabilities(make_photo: Callable[..., bytes]) -> None:
    photo = make_photo(0)
    (best,) = _Encoder().classify([photo], ["cat", "cat cat cat cat", "cat"], templates=["{}"], top_k=9)
    assert sorted(label for label, _ in best) == ["cat", "cat", "cat cat cat cat"]
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-5)
    assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
    assert len(_Encoder().classify([photo, photo], ["a", "b"], top_k=1)) == 2
    assert _Encoder().classify([], ["a"]) == []


def test_a_request_that_breaks_a_rule_encodes_nothing(make_photo: Callable[..., bytes]) -> None:
    encoder, photos = _Encoder(), [make_photo(0)]
    wrong: list[Callable[[], object]] = [
        lambda: encoder.classify(photos, "cat"),
        lambda: encoder.classify(photos, []),
        lambda: encoder.classify(photos, ["cat"], templates=["a photo"]),
        lambda: encoder.classify(photos, ["cat"], top_k=0),
        lambda: encoder.classify([*photos, None], ["cat"]),  # type: ignore[list-item]
        lambda: encoder.embed_texts("a dog"),
        lambda: encoder.embed_texts(["a"], batch_size=0),
        lambda: encoder.embed_images("cat.jpg"),
        lambda: encoder.embed_images(photos, batch_size=0),
    ]
    for call in wrong:
        with pytest.raises(UsageError):
            call()
    assert encoder.shapes == []


def test_leaving_the_block_closes_the_encoder() -> None:
    with _Encoder() as encoder:
        assert not encoder.closed
    assert encoder.closed == 1


FULL = replace(SPEC, text_padding="full", pad_id=1, text_pooling="last")


@pytest.mark.parametrize("spec", [SPEC, FULL])
def test_a_specification_survives_json(spec: EncoderSpec) -> None:
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert SPEC.preprocess() == replace(SPEC, name="other").preprocess()


def test_a_model_of_clips_kind_is_described_as_earlier_versions_did() -> None:
    assert not SPEC.to_dict().keys() & {"text_padding", "pad_id", "text_pooling"}


def test_texts_are_padded_to_the_longest_or_to_the_context() -> None:
    texts = [[5, 6, 7], [], [8]]
    assert SPEC.pad(texts).tolist() == [[5, 6, 7], [0, 0, 0], [8, 0, 0]]
    padded = FULL.pad(texts)
    assert padded.dtype == np.int32 and padded.shape == (3, 16)
    assert padded[0].tolist() == [5, 6, 7, *[1] * 13] and set(padded[1]) == {1}
    assert (
        SPEC.pad([]).shape == (0, 2)
        and SPEC.pad([[5]]).tolist() == [[5, 0]]
        and FULL.pad([]).shape == (0, 16)
    )


def test_tokens_of_a_length_that_the_tower_does_not_take_are_refused() -> None:
    for spec, taken, refused in ((SPEC, (2, 16), (1, 17)), (FULL, (16,), (2, 15, 17))):
        for length in taken:
            check_tokens(spec, np.ones((2, length), np.int64))
        for length in refused:
            with pytest.raises(UsageError):
                check_tokens(spec, np.ones((2, length), np.int64))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**SPEC.to_dict(), "more": 1},
        {key: value for key, value in SPEC.to_dict().items() if key != "std"},
        {**SPEC.to_dict(), "mean": 0.5},
        {**SPEC.to_dict(), "text_padding": "left"},
        None,
        [],
        "text",
    ],
)
def test_a_specification_that_does_not_fit_is_bad_data(fields: Any) -> None:
    with pytest.raises(DataError):
        EncoderSpec.from_dict(fields)


def test_other_rules_of_preparing_images_than_the_models_are_said(caplog: pytest.LogCaptureFixture) -> None:
    same = replace(SPEC, preprocess_digest=SPEC.preprocess().digest)
    caplog.clear()
    assert same.preprocess() == SPEC.preprocess()
    assert [SPEC.name in record.getMessage() for record in caplog.records] == [True]  # of SPEC alone


def test_another_tokenizer_than_the_models_is_refused(tmp_path: Path) -> None:
    tokenizer = clip_tokenizer()
    replace(SPEC, tokenizer_digest=tokenizer.digest).check_tokenizer(tokenizer, tmp_path)
    with pytest.raises(DataError) as error:
        SPEC.check_tokenizer(tokenizer, tmp_path)
    assert error.value.where == str(tmp_path / "clip_vocabulary.json")
