"""Text towers that are a Hugging Face model under a projection, as open_clip's HFTextEncoder, by `kdx[hf]`.

Their configuration is data: that of the models that open_clip names lies in hugging_face_configs/, another's comes
with the architecture (`text_cfg.hf_config`). Nothing is fetched; weights are random, or those of a whole CLIP.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor

from kdx.core.extras import naming_the_extra
from kdx.core.scratch import scratch_folder

from .architecture import TextConfig

FOLDER = files("kdx.models") / "hugging_face_configs"
MODEL_TYPES = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")  # those whose settings open_clip can read


@functools.cache
def known_configs() -> dict[str, dict[str, Any]]:
    """The configurations that kdx carries, by the names of their models."""
    return {
        file.name.removesuffix(".json").replace("--", "/"): json.loads(file.read_text(encoding="utf-8"))
        for file in FOLDER.iterdir()
    }


def hugging_face_config(text: TextConfig) -> dict[str, Any] | None:
    """The configuration in Hugging Face's layout; None where neither the architecture nor kdx has it."""
    return text.hf_config or known_configs().get(text.hf_model_name or "")


def unsupported_text_reason(text: TextConfig) -> str | None:
    """Why the tower that `text` names cannot be built; None if it can."""
    config = hugging_face_config(text)
    if config is None:
        return (
            f"its text tower is the Hugging Face model {text.hf_model_name}, whose configuration is not here: "
            f"put its config.json into {text.hf_model_name}/ beside open_clip_config.json"
        )
    if config.get("model_type") not in MODEL_TYPES:
        return f"its text tower is a Hugging Face model of the type {config.get('model_type')}"
    return None


class HuggingFaceText(HFTextEncoder):
    """open_clip's tower, whose graph depends on no value of a tensor: it is traced, and runs on the meta device.

    Padding is hidden from the transformer and from the pooler, so a batch may be cut to its longest text.
    """

    def __init__(self, text: TextConfig, embed_dim: int) -> None:
        with naming_the_extra():
            import transformers  # noqa: F401  # open_clip's module is imported without it and fails in a call
        with scratch_folder() as folder:
            path = folder / "config.json"
            path.write_text(json.dumps(hugging_face_config(text)), encoding="utf-8")
            super().__init__(
                str(path),
                embed_dim,
                pooler_type=text.hf_pooler_type,
                proj_type=text.hf_proj_type,
                pretrained=False,
            )
        # the views that transformers takes of fused attention's output do not trace with a free length (mT5)
        self.transformer.set_attn_implementation("eager")
        config: Any = self.config
        self.width: int = getattr(config, "hidden_size", None) or config.d_model
        self.pad_id: int = config.pad_token_id

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x: int [B, L], padded with the configuration's pad id. Returns [B, D]."""
        seen = x != self.pad_id  # [B, L]
        # additive and of four dimensions, which transformers takes as it is
        dtype = self.transformer.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=x.device)
        hidden = hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None, :]
        out = self.transformer(input_ids=x, attention_mask=hidden.expand(-1, 1, x.shape[1], -1))
        return self.proj(self.pooler(out, seen.long()))
