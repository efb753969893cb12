"""The tokens of a set's captions for one text tower: the index's where it reads CLIP's, else made when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import EncoderSpec, TextPadding
from kdx.core.tokenizers import Tokenizer
from kdx.models.clip_vocabulary import clip_tokenizer

from .shard_set import ShardSet

FITS_UINT16 = 2**16

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class CaptionTokens:
    """tokenizer: None for CLIP's, so that little is pickled for other processes. padding and pad_id: of the tower."""

    samples: ShardSet
    context_length: int
    tokenizer: Tokenizer | None = None
    padding: TextPadding = "longest"
    pad_id: int = 0

    @classmethod
    def of(cls, samples: ShardSet, spec: EncoderSpec, tokenizer: Tokenizer) -> CaptionTokens:
        """spec: of a model with this tokenizer."""
        other = None if tokenizer.digest == clip_tokenizer().digest else tokenizer
        return cls(samples, spec.context_length, other, spec.text_padding, spec.pad_id)

    @property
    def dtype(self) -> npt.DTypeLike:
        """The smallest that holds every id."""
        return np.uint16 if self.tokenizer is None or self.tokenizer.vocab_size <= FITS_UINT16 else np.uint32

    def __call__(self, row: int, caption: int) -> Ids:
        """Of one caption of a row, not padded."""
        return self.read(row, caption)[0]

    def read(self, row: int, caption: int) -> tuple[Ids, bool]:
        """The same, and whether the caption was longer and was cut."""
        if self.tokenizer is None:
            ids = self.samples.tokens(row, caption, self.context_length)
            if len(ids) < self.context_length:
                return ids, False
            text = self.samples.captions(row)[caption]  # may just fit; few come so far
            return ids, clip_tokenizer().encode_and_tell(text, self.context_length)[1]
        text = self.samples.captions(row)[caption]
        ids, cut = self.tokenizer.encode_and_tell(text, self.context_length)
        return np.array(ids, dtype=self.dtype), cut
