"""The CLIP model that kdx trains and exports: open_clip's, with text of any length."""

from __future__ import annotations

import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

# the children and parameters of a ClipModel that make up its towers; the logit scale belongs to neither
TOWERS = {
    "image": ("visual",),
    "text": ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"),
}


class ClipModel(CLIP):
    """open_clip's CLIP, same parameters and state dict, whose text tower takes [B, L ≤ context_length].

    The text tower is causal and pooled at end-of-text, so padding never reaches the pooled position: a
    batch cut to its longest text gives the embeddings of the padded batch (tests/models/test_clip.py).
    """

    visual: nn.Module
    transformer: nn.Module
    token_embedding: nn.Embedding  # pyright: ignore[reportIncompatibleVariableOverride]
    positional_embedding: Tensor
    attn_mask: Tensor
    ln_final: nn.LayerNorm  # pyright: ignore[reportIncompatibleVariableOverride]
    text_projection: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    text_pool_type: str
    text_eos_id: int
    context_length: int
    vocab_size: int
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    locked: frozenset[str] = frozenset()  # towers that stay in evaluation mode (locking.py)

    def train(self, mode: bool = True) -> ClipModel:
        super().train(mode)
        for tower in self.locked:
            for name, child in self.named_children():
                if name in TOWERS[tower]:
                    child.eval()
        return self

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """text: int [B, L], ended by end-of-text and padded with 0. Returns [B, D]; unit rows if `normalize`."""
        length = text.shape[1]
        x = self.token_embedding(text) + self.positional_embedding[:length]  # [B, L, W]
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        x = self.ln_final(x)
        x = text_global_pool(x, text, self.text_pool_type, eos_token_id=self.text_eos_id)  # [B, W]
        x = x @ self.text_projection  # [B, D]
        return F.normalize(x, dim=-1) if normalize else x
