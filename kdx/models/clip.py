"""The models that kdx trains and exports: one face over the two layouts in which open_clip keeps a CLIP."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from kdx.core.errors import UsageError


class ClipModel(nn.Module):
    """Two towers and the scale of their logits; its state dict has the names of open_clip's.

    TOWERS: the children and parameters that make up each tower; the logit scale belongs to neither.
    """

    TOWERS: ClassVar[dict[str, tuple[str, ...]]]

    visual: nn.Module
    context_length: int
    vocab_size: int
    logit_scale: nn.Parameter  # its logarithm
    logit_bias: nn.Parameter | None
    locked: frozenset[str] = frozenset()  # towers that stay in evaluation mode (locking.py)

    @property
    @abstractmethod
    def text_tower(self) -> Any:
        """The module whose children and parameters the text tower is; of a plain CLIP the model itself."""

    @property
    def text_transformer(self) -> nn.Module:
        """The blocks of the text tower, which are compiled."""
        return self.text_tower.transformer

    @abstractmethod
    def checkpoint_text_gradients(self) -> None:
        """From now on the text tower computes its activations again in the backward pass."""

    @property
    @abstractmethod
    def text_width(self) -> int:
        """The width of the text tower's residual stream."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """image: float [B, 3, S, S], normalised. Returns [B, D]; unit rows if `normalize`."""
        features = self.visual(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """text: int [B, L], padded with the tokenizer's pad id. Returns [B, D]; unit rows if `normalize`.

        A tower whose architecture says text_padding = "longest" takes any L ≤ context_length and gives the vectors of
        the batch padded to the context; one that says "full" takes L = context_length and raises UsageError for less.
        """
        features = self._text_features(text)
        return F.normalize(features, dim=-1) if normalize else features

    @abstractmethod
    def _text_features(self, text: Tensor) -> Tensor: ...

    def train(self, mode: bool = True) -> ClipModel:
        super().train(mode)
        for tower in self.locked:
            for name, child in self.named_children():
                if name in self.TOWERS[tower]:
                    child.eval()
        return self


class PlainClip(ClipModel, CLIP):
    """open_clip's CLIP: the text tower's parts lie at the top, beside `visual`."""

    TOWERS: ClassVar = {
        "image": ("visual",),
        "text": ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"),
    }

    transformer: nn.Module
    token_embedding: nn.Embedding  # pyright: ignore[reportIncompatibleVariableOverride]
    positional_embedding: Tensor
    ln_final: nn.LayerNorm  # pyright: ignore[reportIncompatibleVariableOverride]
    attn_mask: Tensor | None
    text_projection: Any
    text_pool_type: str
    text_eos_id: int

    @property
    def text_tower(self) -> Any:
        return self

    def checkpoint_text_gradients(self) -> None:
        self.transformer.grad_checkpointing = True  # pyright: ignore[reportArgumentType]

    @property
    def text_width(self) -> int:
        return self.token_embedding.embedding_dim

    def _text_features(self, text: Tensor) -> Tensor:
        return text_features(self, text, self.text_pool_type, self.text_eos_id)


class CustomTextClip(ClipModel):
    """open_clip's CustomTextCLIP, and of its CoCa the two towers: the text tower is a module of its own, `text`."""

    TOWERS: ClassVar = {"image": ("visual",), "text": ("text",)}

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module,
        context_length: int,
        init_logit_scale: float = math.log(1 / 0.07),
        init_logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.context_length = context_length
        self.vocab_size: int = text.vocab_size  # pyright: ignore[reportAttributeAccessIssue]
        self.logit_scale = nn.Parameter(torch.ones([]) * init_logit_scale)
        self.logit_bias = None if init_logit_bias is None else nn.Parameter(torch.ones([]) * init_logit_bias)

    @property
    def text_tower(self) -> Any:
        return self.text

    def checkpoint_text_gradients(self) -> None:
        self.text_tower.set_grad_checkpointing(True)

    @property
    def text_width(self) -> int:
        return self.text.width  # pyright: ignore[reportReturnType]

    def _text_features(self, text: Tensor) -> Tensor:
        tower = self.text
        if not isinstance(tower, TextTransformer):
            return tower(text)
        if tower.cls_emb is not None:
            _check_full(text, self.context_length)
            return tower(text)  # whose class token has the place after the last one
        return text_features(tower, text, tower.pool_type, tower.eos_id)


def text_features(tower: Any, text: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """[B, L] → [B, D] through the parts of a text transformer that open_clip's CLIP and TextTransformer share.

    A causal tower that is pooled at end-of-text takes [B, L ≤ context_length]: padding never reaches the pooled
    position, so a batch cut to its longest text gives the embeddings of the padded batch (tests/models/test_clip.py).
    """
    length = text.shape[1]
    mask = tower.attn_mask
    if mask is None or pool_type == "last":
        _check_full(text, tower.context_length)
    x = tower.token_embedding(text) + tower.positional_embedding[:length]  # [B, L, W]
    x = tower.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
    x = tower.ln_final(x)
    x = text_global_pool(x, text, pool_type, eos_token_id=eos_id)  # [B, W]
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection  # [B, D]


def _check_full(text: Tensor, context_length: int) -> None:
    if text.shape[1] != context_length:
        raise UsageError(
            f"this text tower sees its padding, and {text.shape[1]} tokens came instead of {context_length}",
            remedy=f"pad texts to {context_length} tokens",
        )
