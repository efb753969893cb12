"""Hugging Face's SiglipModel (SigLIP, and SigLIP 2 of a fixed resolution): its config.json and keys as open_clip's.

open_clip's image tower is one of timm's trunks, which are of fixed sizes. Those of SigLIP and of SigLIP 2 up to L have
the exact GELU there and its tanh form in the original and in transformers: the architecture says so by `timm_act`.
Defaults are those of transformers' `configuration_siglip.py`; a config.json leaves out what equals them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import GELUTanh
from torch import Tensor

from kdx.core.errors import DataError
from kdx.core.folders import read_json

from ..architectures import Architecture
from ..clip_configuration import parse_architecture
from .hugging_face_config import CONFIG, join_attention, mlp_ratio, read_section
from .hugging_face_preprocess import read_image_processor
from .known import known_architectures, named
from .layouts import State

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}  # hidden_act → timm_act
COMMON = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
}
TEXT = COMMON | {"vocab_size": 32000, "max_position_embeddings": 64}
VISION = COMMON | {"num_channels": 3, "image_size": 224, "patch_size": 16, "vision_use_head": True}
PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "default_to_square": True}
TRUNK_EPS = 1e-6  # of all of timm's trunks of this kind
CLEAN = "canonicalize"  # what open_clip does to the texts of every SigLIP

TRUNK, HEAD = "visual.trunk", "visual.trunk.attn_pool"
MODULES = {
    "text_model.embeddings.token_embedding": "text.token_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
    "vision_model.embeddings.patch_embedding": f"{TRUNK}.patch_embed.proj",
    "vision_model.post_layernorm": f"{TRUNK}.norm",
    "vision_model.head.attention.out_proj": f"{HEAD}.proj",
    "vision_model.head.layernorm": f"{HEAD}.norm",
    "vision_model.head.mlp.fc1": f"{HEAD}.mlp.fc1",
    "vision_model.head.mlp.fc2": f"{HEAD}.mlp.fc2",
}
PARAMETERS = {
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "vision_model.head.probe": f"{HEAD}.latent",
}
POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
VISION_PARTS = {
    "self_attn.out_proj": "attn.proj",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
BLOCK = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
QKV = re.compile(r"self_attn\.([qkv])_proj")
POOLER_QKV = re.compile(r"vision_model\.head\.attention\.in_proj_(weight|bias)")


def read_architecture(folder: Path) -> Architecture:
    """The architecture that config.json and the files beside it that tell of preprocessing describe exactly.

    Raises DataError for sizes of which timm has no trunk, and for settings that the towers in kdx do not have.
    """
    path = folder / CONFIG
    config = read_json(path)
    text, vision = read_section(config, "text", TEXT, path), read_section(config, "vision", VISION, path)
    given: Any = config.get("text_config")
    text_dim = (given or {}).get("projection_size") or text["hidden_size"]
    _check_supported(text, vision, text_dim, path)
    name = folder.resolve().name
    trunk, act = _trunk(vision, path)
    image_tower: dict[str, Any] = {
        "image_size": vision["image_size"],
        "timm_model_name": trunk,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    if act != ACTIVATIONS[vision["hidden_act"]]:
        image_tower["timm_act"] = ACTIVATIONS[vision["hidden_act"]]
    described = {
        "name": name,
        "embed_dim": vision["hidden_size"],
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": image_tower,
        "text_cfg": _text_tower(text, _tokenizer_name(trunk, text["vocab_size"]) or name),
        "preprocess_cfg": read_image_processor(folder, vision["image_size"], PROCESSOR),
    }
    return named(parse_architecture(described, path))


def to_open_clip(state: State) -> State:
    """SiglipModel's keys as open_clip's; keys that belong to neither stay, and the check against the model names them.

    The matrices of query, key and value, each [W, W], become one [3W, W] in this order; of the pooling head, whose are
    one matrix already, the first W rows are the query's and the others the keys' and values'.
    """
    renamed: State = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.endswith("embeddings.position_ids"):  # 0, 1, 2 …, kept by old versions
            continue
        if (found := POOLER_QKV.fullmatch(key)) and isinstance(value, Tensor) and len(value) % 3 == 0:
            width = len(value) // 3
            renamed[f"{HEAD}.q.{found[1]}"] = value[:width]
            renamed[f"{HEAD}.kv.{found[1]}"] = value[width:]
        elif key == POSITIONS and isinstance(value, Tensor):
            renamed[f"{TRUNK}.pos_embed"] = value[None]  # [1, patches, W]
        elif (found := BLOCK.fullmatch(key)) and (part := QKV.fullmatch(found[3])):
            joint = (
                f"text.transformer.resblocks.{found[2]}.attn.in_proj_{found[4]}"
                if found[1] == "text"
                else f"{TRUNK}.blocks.{found[2]}.attn.qkv.{found[4]}"
            )
            attention.setdefault(joint, {})[part[1]] = value
        elif found and found[1] == "text" and found[3] in TEXT_PARTS:
            renamed[f"text.transformer.resblocks.{found[2]}.{TEXT_PARTS[found[3]]}.{found[4]}"] = value
        elif found and found[1] == "vision" and found[3] in VISION_PARTS:
            renamed[f"{TRUNK}.blocks.{found[2]}.{VISION_PARTS[found[3]]}.{found[4]}"] = value
        else:
            module, _, kind = key.rpartition(".")
            renamed[f"{MODULES[module]}.{kind}" if module in MODULES else PARAMETERS.get(key, key)] = value
    for joint, parts in attention.items():
        renamed |= join_attention(joint, parts)
    return renamed


def _check_supported(text: dict[str, Any], vision: dict[str, Any], text_dim: Any, path: Path) -> None:
    for tower, section in (("text", text), ("vision", vision)):
        if section["hidden_act"] not in ACTIVATIONS:
            raise DataError(
                f"{tower}_config: hidden_act is {section['hidden_act']}; kdx has {' and '.join(ACTIVATIONS)}",
                where=path,
                remedy="no architecture of kdx computes this model",
            )
    reason = ""
    if vision["num_channels"] != 3:
        reason = f"its images have {vision['num_channels']} channels, and kdx reads RGB images"
    elif not vision["vision_use_head"]:
        reason = "its image tower has no pooling head (vision_use_head = false), so it gives no embedding"
    elif text_dim != vision["hidden_size"]:
        reason = f"its texts are {text_dim} wide and its images {vision['hidden_size']}"
    elif text["hidden_size"] % text["num_attention_heads"]:
        reason = f"{text['num_attention_heads']} heads do not divide a width of {text['hidden_size']}"
    if reason:
        raise DataError(
            f"is a SigLIP that kdx cannot build: {reason}",
            where=path,
            remedy="take the weights of a whole SiglipModel",
        )


def _trunk(vision: dict[str, Any], path: Path) -> tuple[str, str]:
    """timm's trunk of exactly these sizes, and which GELU it has."""
    suffix = f"_patch{vision['patch_size']}_siglip_{vision['image_size']}"
    wanted = [
        vision[name]
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    ]
    for name in timm.list_models(f"*{suffix}"):
        with torch.device("meta"):
            trunk: Any = timm.create_model(name, num_classes=0)
        block = trunk.blocks[0]
        sizes = [trunk.embed_dim, len(trunk.blocks), block.attn.num_heads, block.mlp.fc1.out_features]
        if sizes == wanted and vision["layer_norm_eps"] == TRUNK_EPS:
            return name, "gelu_tanh" if isinstance(block.mlp.act, GELUTanh) else "gelu"
    width, layers, heads, mlp_width = wanted
    raise DataError(
        f"its image tower ({layers} layers, {width} wide, {heads} heads, MLP {mlp_width}, patches of"
        f" {vision['patch_size']}, images of {vision['image_size']}) is none of timm's for SigLIP, of which"
        " open_clip's architectures are made",
        where=path,
        remedy="take published sizes: B, L, So400m or giant-opt at the resolutions of `kdx models`",
    )


def _text_tower(text: dict[str, Any], tokenizer_name: str) -> dict[str, Any]:
    width = text["hidden_size"]
    tower: dict[str, Any] = {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "hf_tokenizer_name": tokenizer_name,
        "tokenizer_kwargs": {"clean": CLEAN},
        "width": width,
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": text["layer_norm_eps"]},
    }
    if text["intermediate_size"] != 4 * width:
        tower["mlp_ratio"] = mlp_ratio(width, text["intermediate_size"])
    if text["hidden_act"] == "gelu_pytorch_tanh":
        tower["act_kwargs"] = {"approximate": "tanh"}
    return tower


def _tokenizer_name(trunk: str, vocab_size: int) -> str | None:
    """Where open_clip has this tokenizer from: that of its model with this trunk, else of any with the vocabulary."""
    alike = [
        known
        for known in known_architectures()
        if known.text_cfg.vocab_size == vocab_size
        and "siglip" in (known.vision_cfg.timm_model_name or "")
        and known.text_cfg.hf_tokenizer_name
    ]
    alike.sort(key=lambda known: known.vision_cfg.timm_model_name != trunk)
    return alike[0].text_cfg.hf_tokenizer_name if alike else None
