"""The one contract of kdx: an Encoder turns images and texts into comparable unit vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .preprocess import ImageSource, Preprocess
from .tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer[Any]]

T = TypeVar("T")

EMBED_BATCH = 64


@dataclass(frozen=True)
class EncoderSpec:
    """What must be known to use an encoder, the same for each of its forms.

    logit_scale is the multiplier of the cosine (after exp); logit_bias is added to it (0 for CLIP).
    The digests are sha256 in hex; two encoders with the same model_digest hold the same weights.
    """

    name: str
    embed_dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    context_length: int
    vocab_size: int
    logit_scale: float
    logit_bias: float
    model_digest: str
    preprocess_digest: str
    tokenizer_digest: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> EncoderSpec:
        """Inverse of to_dict after a round trip through JSON. Raises DataError on missing or surplus keys."""
        try:
            triples: dict[str, Any] = {
                name: tuple(fields[name]) for name in ("mean", "std") if name in fields
            }
            return cls(**{**fields, **triples})
        except TypeError as error:
            raise DataError(
                f"the encoder's specification does not fit: {error}", remedy="export the model again"
            ) from None

    def preprocess(self) -> Preprocess:
        return Preprocess(
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )


class Encoder(ABC):
    """image → unit vector, text → unit vector; numpy in, numpy out.

    A form of Encoder implements encode_image and encode_text; batching, decoding and tokenizing are here.
    """

    spec: EncoderSpec
    preprocess: Preprocess
    tokenizer: Tokenizer

    @abstractmethod
    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """pixels: float32 [B, 3, H, W], preprocessed. Returns float32 [B, D], unit rows."""

    @abstractmethod
    def encode_text(self, tokens: IntArray) -> FloatArray:
        """tokens: int [B, L ≤ context_length], padded with 0. Returns float32 [B, D], unit rows."""

    def embed_images(self, images: Iterable[ImageSource], batch_size: int = EMBED_BATCH) -> FloatArray:
        """images: paths, encoded bytes or PIL images, any number. Returns float32 [N, D], unit rows.

        Raises DataError for an image that cannot be decoded.
        """
        batches = [
            self.encode_image(np.stack([self.preprocess(image) for image in batch]))
            for batch in _batched(images, batch_size)
        ]
        return self._concatenate(batches)

    def embed_texts(self, texts: Sequence[str], batch_size: int = EMBED_BATCH) -> FloatArray:
        """texts: any number of strings. Returns float32 [N, D], unit rows, in the order given.

        Texts are encoded in order of length, so that no batch is padded further than it needs.
        """
        tokens = [self.tokenizer.encode(text, self.spec.context_length) for text in texts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        embeddings = np.empty((len(tokens), self.spec.embed_dim), dtype=np.float32)
        for rows in _batched(order, batch_size):
            embeddings[rows] = self.encode_text(Tokenizer.pad([tokens[i] for i in rows]))
        return embeddings

    def close(self) -> None:  # noqa: B027  most forms hold nothing
        """Gives back what the encoder holds: sessions, connections. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _concatenate(self, batches: list[FloatArray]) -> FloatArray:
        if not batches:
            return np.empty((0, self.spec.embed_dim), dtype=np.float32)
        return np.concatenate(batches)


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
