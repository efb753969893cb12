"""Facts of kdx/runtime/torch.py: a checkpoint as an Encoder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdx.core.errors import DataError
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.torch import TorchEncoder


@pytest.fixture(scope="module")
def encoder(mini_checkpoint: Path) -> Iterator[TorchEncoder]:
    with TorchEncoder.open(mini_checkpoint) as encoder:
        yield encoder


def _pixels(encoder: TorchEncoder, count: int) -> np.ndarray:
    size = encoder.spec.image_size
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def test_embeddings_are_unit_rows_in_fp32(encoder: TorchEncoder) -> None:
    images = encoder.encode_image(_pixels(encoder, 4))
    texts = encoder.embed_texts(["a star", "", "word " * 200])
    for embeddings, count in ((images, 4), (texts, 3)):
        assert embeddings.shape == (count, encoder.spec.embed_dim) and embeddings.dtype == np.float32
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(count), abs=1e-5)


def test_they_are_the_normalised_features_of_the_model(encoder: TorchEncoder, mini_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    pixels = _pixels(encoder, 2)
    with torch.no_grad():
        features = checkpoint.model.encode_image(torch.from_numpy(pixels)).numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(encoder.encode_image(pixels) - expected).max() < 1e-5


def test_an_embedding_does_not_depend_on_its_neighbours(encoder: TorchEncoder) -> None:
    pixels = _pixels(encoder, 5)
    together = encoder.encode_image(pixels)
    for row in range(5):
        assert np.abs(encoder.encode_image(pixels[row : row + 1])[0] - together[row]).max() < 1e-5


def test_strided_pixels_and_any_integer_tokens_are_taken(encoder: TorchEncoder) -> None:
    pixels = _pixels(encoder, 4)
    assert np.array_equal(encoder.encode_image(pixels[::-2]), encoder.encode_image(pixels[::-2].copy()))
    tokens = np.array([[49406, 320, 2368, 49407]])
    assert np.array_equal(
        encoder.encode_text(tokens.astype(np.int32)), encoder.encode_text(tokens.astype(np.int64))
    )


def test_nothing_gives_no_rows(encoder: TorchEncoder) -> None:
    assert encoder.embed_images([]).shape == (0, encoder.spec.embed_dim)
    assert encoder.embed_texts([]).shape == (0, encoder.spec.embed_dim)


def test_an_image_that_does_not_decode_is_bad_data(
    encoder: TorchEncoder, make_photo: Callable[..., bytes]
) -> None:
    with pytest.raises(DataError):
        encoder.embed_images([make_photo(0), make_photo(1)[:60]])


def test_a_folder_that_is_no_checkpoint_is_bad_data(exported_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is of kind exported-model, not checkpoint"):
        TorchEncoder.open(exported_model)
    with pytest.raises(DataError, match="no checkpoint folder here"):
        TorchEncoder.open(tmp_path / "nowhere")
