"""A teacher of caches without a model: a test says how it embeds."""

from __future__ import annotations

from kdx.core.encoder import EncoderSpec
from kdx.core.preprocess import Preprocess
from kdx.core.tokenizers import Tokenizer
from kdx.models.clip_vocabulary import clip_tokenizer


class FakeTeacher:
    """Sees 8 × 8 pixels and 16 tokens. A subclass has embed_pixels and embed_tokens."""

    precision = "fp32"

    def __init__(self, embed_dim: int) -> None:
        self.preprocess = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.tokenizer: Tokenizer = clip_tokenizer()
        self.spec = EncoderSpec(
            name="fake",
            embed_dim=embed_dim,
            image_size=8,
            mean=self.preprocess.mean,
            std=self.preprocess.std,
            interpolation="bicubic",
            resize_mode="shortest",
            context_length=16,
            vocab_size=self.tokenizer.vocab_size,
            logit_scale=1.0,
            logit_bias=0.0,
            model_digest="0" * 64,
            preprocess_digest=self.preprocess.digest,
            tokenizer_digest=self.tokenizer.digest,
        )
