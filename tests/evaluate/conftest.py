"""An Encoder whose embeddings are known: colours and words share one space."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from kdx.core.encoder import Encoder, EncoderSpec, FloatArray, IntArray
from kdx.core.preprocess import Preprocess
from kdx.core.tokenizers.clip import END, END_OF_WORD, START, ClipTokenizer, byte_alphabet

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder(Encoder):
    """An image's embedding is its mean colour; a text's is that of the colours it names.

    Other texts point to where no colour does.
    """

    def __init__(self) -> None:
        self.preprocess = Preprocess(4, mean=(0, 0, 0), std=(1, 1, 1))
        letters = [*byte_alphabet().values()]
        merges = [pair for word in ("green", "blue", "red") for pair in _merges(word)]
        merged = [first + second for first, second in merges]
        symbols = [*letters, *(letter + END_OF_WORD for letter in letters), *merged, START, END]
        self.tokenizer = ClipTokenizer({symbol: i for i, symbol in enumerate(symbols)}, merges)
        self._words = [symbols.index(word + END_OF_WORD) for word in COLOURS]
        self.images_embedded = 0
        self.texts_embedded = 0
        self.spec = EncoderSpec(
            name="colours",
            embed_dim=4,
            image_size=4,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            interpolation="bicubic",
            resize_mode="shortest",
            context_length=32,
            vocab_size=len(symbols),
            logit_scale=1.0,
            logit_bias=0.0,
            model_digest="0" * 64,
            preprocess_digest=self.preprocess.digest,
            tokenizer_digest=self.tokenizer.digest,
        )

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        self.images_embedded += len(pixels)
        colours = pixels.mean(axis=(2, 3))  # [B, 3]
        return _unit(np.pad(colours, ((0, 0), (0, 1))))

    def encode_text(self, tokens: IntArray) -> FloatArray:
        self.texts_embedded += len(tokens)
        found = np.stack([(tokens == word).any(axis=1) for word in self._words], axis=1)  # [B, 3]
        return _unit(np.concatenate([found, ~found.any(axis=1, keepdims=True)], axis=1))


def _merges(word: str) -> list[tuple[str, str]]:
    """Spells a word together from left to right."""
    letters = [*word[:-1], word[-1] + END_OF_WORD]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def _unit(rows: np.ndarray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def make_image() -> Callable[[str], bytes]:
    """PNG of one colour: red, green or blue."""

    def make(colour: str) -> bytes:
        encoded = io.BytesIO()
        Image.new("RGB", (6, 6), COLOURS[colour]).save(encoded, "PNG")
        return encoded.getvalue()

    return make
