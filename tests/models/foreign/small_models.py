"""Folders with small models of other kinds than a causal CLIP, in open_clip's layout as the hub has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import tokenizers
import torch
from torch import nn

from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model
from kdx.models.hugging_face_text import known_configs

from .small_tokenizers import roberta as roberta_tokenizer, t5

VISION = {"image_size": 48, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
SIGLIP = {
    "embed_dim": 24,
    "init_logit_bias": -2.0,
    "custom_text": True,
    "vision_cfg": VISION,
    "text_cfg": {
        "context_length": 40,
        "vocab_size": 48,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "hf_tokenizer_name": "someone/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}
ROBERTA = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}


def siglip(folder: Path) -> None:
    """Texts of a fixed length, without a causal mask, pooled at the last place; a logit bias."""
    t5(folder)
    _publish(folder, SIGLIP)


def roberta(folder: Path) -> None:
    """A Hugging Face text tower, which hides padding from itself and takes the mean of what is left."""
    roberta_tokenizer(folder)
    size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    text = {
        "hf_model_name": "roberta-base",
        "hf_tokenizer_name": "roberta-base",
        "hf_pooler_type": "mean_pooler",
        "hf_config": known_configs()["roberta-base"] | ROBERTA | {"vocab_size": size},
    }
    _publish(folder, {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text})


KINDS: dict[str, Callable[[Path], None]] = {each.__name__: each for each in (siglip, roberta)}


def _publish(folder: Path, described: dict[str, Any]) -> None:
    model = build_model(Architecture.model_validate(described | {"name": "toy"}), 3)
    _set_weights(model)
    config = {"model_cfg": described, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def _set_weights(model: nn.Module) -> None:
    """Attention that looks at its input and biases that are none of 0, as after training.

    A new tower hardly looks at its input: what it makes of any two lies in one direction, where rounding decides.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("attn" in name or "attention" in name) and parameter.ndim == 2:
                parameter.mul_(2)
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
