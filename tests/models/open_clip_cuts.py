"""open_clip's models by name, cut to what is built and run in an instant."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdx.models.hugging_face_text import known_configs

SHALLOW = {  # each kind of Hugging Face model has its own names
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 1),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    "vocab_size": 64,
}
TRUNK_CUTS = (
    ({"depth": 1}, ("vit", "eva")),
    ({"layers": (1, 1, 1, 1)}, ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2")),
    ({"layers": (1, 1, 1, 1, 1)}, ("fastvit",)),
    ({"depths": (1, 1, 1, 1)}, ("convnext", "swin")),
)


def cut(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with one layer (or one in each stage) and a small vocabulary."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    staged = isinstance(vision.get("layers"), list)
    vision["layers"] = [1, 1, 1, 1] if staged else 1
    text |= {"layers": 1, "vocab_size": max(64, text.get("eos_id", 2) + 1)}
    if text.get("hf_model_name"):
        text["hf_config"] = known_configs()[text["hf_model_name"]] | SHALLOW
    if "multimodal_cfg" in config:
        config["multimodal_cfg"]["layers"] = 1
    return config


def cut_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's trunks with one block in each stage, for kdx and open_clip alike."""
    whole = timm.create_model

    def shallow(name: str, **options: Any) -> nn.Module:
        depth = next((depth for depth, names in TRUNK_CUTS if name.startswith(names)), {})
        return whole(name, **{**options, **depth})

    monkeypatch.setattr(timm, "create_model", shallow)


def padded_tokens(config: dict[str, Any], length: int) -> Tensor:
    """Two texts, the second padded: ended by what the tower pools at, or by the highest id."""
    text = config["text_cfg"]
    hugging_face = text.get("hf_config") or known_configs().get(text.get("hf_model_name", ""), {})
    end = text.get("eos_id") if text.get("pool_type") == "eos" else None
    end = text.get("vocab_size", 49408) - 1 if end is None else end
    tokens = torch.randint(3, 60, (2, length), generator=torch.Generator().manual_seed(0))
    tokens[0, -1] = tokens[1, 5] = end
    tokens[1, 6:] = hugging_face.get("pad_token_id", 0)
    return tokens
