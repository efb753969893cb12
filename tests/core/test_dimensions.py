"""Facts of kdx/core/dimensions.py, and of embeddings of which the first dimensions are asked for."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kdx.core.dimensions import first_dimensions
from kdx.core.encoder import Encoder, EncoderSpec, FloatArray, IntArray
from kdx.core.errors import DataError, UsageError
from kdx.models.clip_vocabulary import clip_tokenizer

SPEC = EncoderSpec(
    name="by hand",
    embed_dim=4,
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
    """Every image and text is (0.6, 0, 0.8, 0)."""

    def __init__(self, *dims: int) -> None:
        self.spec = replace(SPEC, matryoshka_dims=dims)
        self.preprocess = SPEC.preprocess()
        self.tokenizer = clip_tokenizer()
        self.asked = 0

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        self.asked += 1
        return np.tile(np.array([0.6, 0, 0.8, 0], np.float32), (len(pixels), 1))

    def encode_text(self, tokens: IntArray) -> FloatArray:
        return self.encode_image(tokens.astype(np.float32))


def test_the_first_dimensions_have_length_one() -> None:
    rows = np.array([[0.6, 0, 0.8, 0], [0, 0, 0, 1]], np.float32)
    np.testing.assert_allclose(first_dimensions(rows, 3), [[0.6, 0, 0.8], [0, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(first_dimensions(rows, 1), [[1], [0]])
    assert first_dimensions(rows, 4) is rows and first_dimensions(rows, None) is rows


@given(seed=st.integers(0, 999), wide=st.integers(2, 16), narrow=st.integers(1, 15))
@settings(max_examples=50, deadline=None)
def test_a_cut_of_a_cut_is_the_narrower_cut(seed: int, wide: int, narrow: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((3, 16)).astype(np.float32)
    narrow = min(narrow, wide)
    again = first_dimensions(first_dimensions(rows, wide), narrow)
    np.testing.assert_allclose(again, first_dimensions(rows, narrow), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-6)


def test_an_encoder_cuts_what_it_was_trained_for() -> None:
    encoder = _Encoder(1, 3, 4)
    for rows in (encoder.embed_texts(["a"], dimensions=3), encoder.embed_texts(["a"], 64, dimensions=3)):
        np.testing.assert_allclose(rows, [[0.6, 0, 0.8]], atol=1e-7)
    assert encoder.embed_texts(["a", "b"], dimensions=1).tolist() == [[1], [1]]
    assert encoder.embed_texts(["a"], dimensions=4).shape == encoder.embed_texts(["a"]).shape == (1, 4)
    assert encoder.embed_images([], dimensions=3).shape == (0, 3)


@pytest.mark.parametrize("dimensions", [2, 0, -1, 5, True, 3.0])
def test_another_width_is_refused_before_anything_is_encoded(dimensions: Any) -> None:
    encoder = _Encoder(1, 3, 4)
    for ask in (encoder.embed_texts, encoder.embed_images):
        with pytest.raises(UsageError, match="1, 3 or 4 numbers"):
            ask([], dimensions=dimensions)
    assert not encoder.asked


def test_a_model_of_one_width_has_that_alone() -> None:
    encoder = _Encoder()
    assert encoder.embed_texts(["a"], dimensions=4).shape == (1, 4)
    with pytest.raises(UsageError) as caught:
        encoder.embed_texts(["a"], dimensions=2)
    assert "of 4 numbers alone" in caught.value.what and "objective.dims" in str(caught.value.remedy)


def test_the_specification_says_the_widths_only_where_there_are_several() -> None:
    several = replace(SPEC, matryoshka_dims=(1, 3, 4))
    assert EncoderSpec.from_dict(json.loads(json.dumps(several.to_dict()))) == several
    assert "matryoshka_dims" not in SPEC.to_dict()
    assert SPEC.widths == (4,) and several.widths == (1, 3, 4)


@pytest.mark.parametrize("dims", [[1, 3], [3, 1, 4], [1, 1, 4], [0, 4], ["1", 4], [4, 8]])
def test_a_specification_whose_widths_cannot_be_is_bad_data(dims: list[object]) -> None:
    with pytest.raises(DataError, match="matryoshka_dims"):
        EncoderSpec.from_dict({**SPEC.to_dict(), "matryoshka_dims": dims})
