"""The contracts of kdx: an Embedder turns images and texts into comparable unit vectors; an Encoder does it here.

Embedder   any model: a checkpoint, an exported model, the endpoint of a server
└── Encoder   one that runs in this process, with its own preprocessing and tokenizer
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from .dimensions import are_widths, check_dimensions, first_dimensions
from .errors import DataError, UsageError
from .preprocess import ImageSource, Preprocess
from .prompts import best_labels, class_vectors, prompt_texts
from .requests import at_item, check_count, check_images, check_labels, check_templates, check_texts
from .tokenizers import Tokenizer, tokenizer_files

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer[Any]]

T = TypeVar("T")

EMBED_BATCH = 64
MIN_LENGTH = 2  # start and end of text
TextPadding = Literal["longest", "full"]


@dataclass(frozen=True)
class EncoderSpec:
    """What must be known to use an encoder, the same for each of its forms.

    logit_scale is the multiplier of the cosine (after exp); logit_bias is added to it (0 for CLIP).
    text_padding: "longest" for a text tower that is causal and pooled at end-of-text, to which the padding after a text
    makes no difference: tokens may have any length up to context_length. "full" for all others: texts are padded to
    context_length. pad_id: with this token; 0 where it makes no difference. text_pooling: open_clip's `pool_type`.
    tokenizer_kind: see Tokenizer. matryoshka_dims: how many first dimensions are an embedding by themselves, ascending,
    embed_dim the last; none for a model whose embeddings are only whole.
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
    # what a specification written before these says by having none of them
    text_padding: TextPadding = "longest"
    pad_id: int = 0
    text_pooling: str = "argmax"
    tokenizer_kind: str = "clip"
    matryoshka_dims: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """How many dimensions may be asked for, ascending; the last is embed_dim."""
        return self.matryoshka_dims or (self.embed_dim,)

    @property
    def has_free_length(self) -> bool:
        """Whether tokens may have another length than context_length."""
        return self.text_padding == "longest"

    @property
    def min_length(self) -> int:
        """Of tokens; context_length is the greatest."""
        return MIN_LENGTH if self.has_free_length else self.context_length

    def pad(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
        """What the text tower takes of texts that Tokenizer.encode gave: int32 [B, L], padded as it wants them.

        L is the longest text's, at least min_length, or context_length.
        """
        longest = max(map(len, sequences), default=0) if self.has_free_length else self.context_length
        length = max(longest, self.min_length)  # T5's tokenizer gives one id of an empty text
        padded = np.full((len(sequences), length), self.pad_id, dtype=np.int32)
        filled = np.arange(length) < np.array([len(sequence) for sequence in sequences])[:, None]  # [B, L]
        padded[filled] = np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(filled.sum()))
        return padded

    def to_dict(self) -> dict[str, Any]:
        """Without what is as CLIP has it, so that any kdx reads the specification of a CLIP model."""
        defaults = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> EncoderSpec:
        """Inverse of to_dict after a round trip through JSON. Raises DataError for keys and values that do not fit."""
        try:
            tuples: dict[str, Any] = {
                name: tuple(described[name])
                for name in ("mean", "std", "matryoshka_dims")
                if name in described
            }
            spec = cls(**{**described, **tuples})
            if spec.text_padding not in get_args(TextPadding):
                raise TypeError(f"text_padding = {spec.text_padding!r} is not known")
            if not are_widths(spec.matryoshka_dims, spec.embed_dim):
                raise TypeError(f"matryoshka_dims = {list(spec.matryoshka_dims)} of {spec.embed_dim} numbers")
        except TypeError as error:
            raise DataError(
                f"the encoder's specification does not fit: {error}",
                remedy="export the model again, or use the kdx that made it",
            ) from None
        return spec

    def preprocess(self) -> Preprocess:
        """As this kdx does it; a warning says so if the one that made the model did it by other rules."""
        preprocess = Preprocess(
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )
        if preprocess.digest != self.preprocess_digest:
            log.warning("%s was made by a kdx that prepares some images otherwise than this one", self.name)
        return preprocess

    def check_tokenizer(self, tokenizer: Tokenizer, folder: Path) -> None:
        """Raises DataError unless the tokenizer of this folder gives the ids that the model was made for."""
        if tokenizer.digest != self.tokenizer_digest:
            raise DataError(
                f"is not the tokenizer that {self.name} was made with",
                where=tokenizer_files(folder)[0],
                remedy="take the file that was written with the model, or the kdx that made it",
            )


class Embedder(ABC):
    """image → unit vector, text → unit vector, and which label fits an image; numpy out.

    What may be asked is said in kdx/core/requests.py and is the same for every form: a request that breaks a rule
    is a UsageError, a picture that cannot be decoded a DataError, and both name the item (`images[3]`).

    precision: the arithmetic that it was made for, such as "fp32" or "int8". identity: sha256 (hex) of all that decides
    on its embeddings: weights, form, precision, preprocessing and tokenizer. Both None where that cannot be known.
    """

    spec: EncoderSpec
    precision: str | None = None
    identity: str | None = None

    def embed_images(
        self, images: Iterable[ImageSource], batch_size: int = EMBED_BATCH, *, dimensions: int | None = None
    ) -> FloatArray:
        """images: paths, encoded bytes or PIL images, any number. Returns float32 [N, D], unit rows.

        dimensions: the first D ones, to length 1, of a model that was trained for them (`spec.widths`); all by default.
        Raises UsageError, and DataError for an image that cannot be decoded.
        """
        check_dimensions(self.spec, dimensions)
        return first_dimensions(self._embed_images(images, batch_size), dimensions)

    def embed_texts(
        self, texts: Iterable[str], batch_size: int = EMBED_BATCH, *, dimensions: int | None = None
    ) -> FloatArray:
        """texts: any number of strings. Returns float32 [N, D], unit rows, in the order given. Raises UsageError.

        dimensions: as for images. A warning tells how many were longer than the context and were cut to it, where that
        is known here.
        """
        check_dimensions(self.spec, dimensions)
        texts = check_texts(texts)
        embeddings, cut = self.embed_and_count(texts, batch_size)
        warn_of_cut(cut or 0, len(texts), self.spec)
        return first_dimensions(embeddings, dimensions)

    @abstractmethod
    def _embed_images(self, images: Iterable[ImageSource], batch_size: int) -> FloatArray:
        """All dimensions of each, float32 [N, D], unit rows."""

    @abstractmethod
    def embed_and_count(
        self, texts: Iterable[str], batch_size: int = EMBED_BATCH
    ) -> tuple[FloatArray, int | None]:
        """All dimensions of each text without the warning, and how many were cut; None where a server cuts them."""

    def classify(
        self,
        images: Iterable[ImageSource],
        labels: Iterable[str],
        *,
        templates: Iterable[str] | None = None,
        top_k: int = 5,
    ) -> list[list[tuple[str, float]]]:
        """For each image its `top_k` best labels with their probabilities, best first: over all labels, or of a model
        with a bias each label's own (kdx.core.prompts.best_labels).

        templates: prompts with `{}` where the label goes, whose vectors are averaged; without them "a photo of a
        {}.". A top_k above the number of labels gives all. A label may stand there twice: each counts by itself.
        Raises UsageError, and DataError for an image that cannot be decoded.
        """
        labels, templates = check_labels(labels), check_templates(templates)
        top_k, images = check_count(top_k, "top_k"), check_images(images)
        vectors = class_vectors(self.embed_texts(prompt_texts(labels, templates)), len(templates))  # [C, D]
        embeddings, spec = self.embed_images(images), self.spec
        best, scores = best_labels(embeddings, vectors, top_k, spec.logit_scale, spec.logit_bias)  # [N, K]
        return [
            [(labels[number], float(score)) for number, score in zip(*row, strict=True)]
            for row in zip(best, scores, strict=True)
        ]

    def close(self) -> None:  # noqa: B027  most forms hold nothing
        """Gives back what the model holds: sessions, connections. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Encoder(Embedder):
    """An Embedder in this process: it also takes pixels and tokens.

    A form of Encoder implements encode_image and encode_text; batching, decoding and tokenizing are here.
    """

    preprocess: Preprocess
    tokenizer: Tokenizer

    @abstractmethod
    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """pixels: float32 [B, 3, H, W], preprocessed. Returns float32 [B, D], unit rows."""

    @abstractmethod
    def encode_text(self, tokens: IntArray) -> FloatArray:
        """tokens: int [B, L], as `spec.pad` gives them. Returns float32 [B, D], unit rows."""

    def _embed_images(self, images: Iterable[ImageSource], batch_size: int) -> FloatArray:
        numbered = enumerate(check_images(images))
        batches = [
            self.encode_image(np.stack([self._pixels(index, image) for index, image in batch]))
            for batch in batched(numbered, check_count(batch_size, "batch_size"))
        ]
        return concatenate(batches, self.spec.embed_dim)

    def embed_and_count(self, texts: Iterable[str], batch_size: int = EMBED_BATCH) -> tuple[FloatArray, int]:
        """Texts are encoded in order of length, so that no batch is padded further than it needs."""
        encoded = [
            self.tokenizer.encode_and_tell(text, self.spec.context_length) for text in check_texts(texts)
        ]
        tokens = [ids for ids, _ in encoded]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        embeddings = np.empty((len(tokens), self.spec.embed_dim), dtype=np.float32)
        for rows in batched(order, check_count(batch_size, "batch_size")):
            embeddings[rows] = self.encode_text(self.spec.pad([tokens[i] for i in rows]))
        return embeddings, sum(cut for _, cut in encoded)

    def _pixels(self, index: int, image: ImageSource) -> FloatArray:
        try:
            return self.preprocess(image)
        except DataError as error:
            raise at_item(error, "images", index, image) from None


def warn_of_cut(cut: int, total: int, spec: EncoderSpec) -> None:
    """One line for all texts of a call; none if all fit."""
    if cut:
        log.warning(
            "%d of %d texts were longer than the %d tokens that %s reads, and were cut",
            cut,
            total,
            spec.context_length,
            spec.name,
        )


def check_pixels(spec: EncoderSpec, pixels: npt.NDArray[Any]) -> None:
    """Raises UsageError for pixels that are not float32 [B, 3, S, S] and finite."""
    size = spec.image_size
    if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size) or pixels.dtype != np.float32:
        raise _unfit("pixels", pixels, f"float32 [B, 3, {size}, {size}]")
    if not np.isfinite(pixels).all():
        raise UsageError("pixels hold NaN or infinity", remedy="check the image and its preprocessing")


def check_tokens(spec: EncoderSpec, tokens: npt.NDArray[Any]) -> None:
    """Raises UsageError for tokens that are not integers [B, L] of the vocabulary, min_length ≤ L ≤ context_length."""
    whole = tokens.ndim == 2 and np.issubdtype(tokens.dtype, np.integer)
    least, most = spec.min_length, spec.context_length
    if not whole or not least <= tokens.shape[1] <= most:
        lengths = f"L from {least} to {most}" if least < most else f"L = {most}"
        raise _unfit("tokens", tokens, f"integer [B, L] with {lengths}")
    # a graph takes a negative id for one counted from the end of the vocabulary
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < spec.vocab_size):
        raise UsageError(
            f"tokens hold ids outside 0 … {spec.vocab_size - 1}", remedy="use the model's tokenizer"
        )


def _unfit(name: str, array: npt.NDArray[Any], expected: str) -> UsageError:
    return UsageError(
        f"{name} are {array.dtype} {list(array.shape)}, not {expected}",
        remedy="give what the model's spec says",
    )


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one of what is left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def concatenate(batches: list[FloatArray], embed_dim: int) -> FloatArray:
    """The rows of all batches [N, D]; without any, none of that width."""
    return np.concatenate(batches) if batches else np.empty((0, embed_dim), dtype=np.float32)
