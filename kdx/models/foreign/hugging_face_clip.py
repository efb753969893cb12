"""Hugging Face's CLIPModel and MetaClip2Model: config.json as an architecture, keys as open_clip's.

They differ in the tokenizer alone: MetaCLIP 2 has XLM-V's, and is pooled at the first end of text. Defaults and the
precedence of `text_config_dict` over `text_config` are those of transformers' `configuration_clip.py`; a config.json
leaves out what equals them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from kdx.core.errors import DataError
from kdx.core.folders import read_json

from ..architectures import Architecture
from ..clip_configuration import parse_architecture
from ..clip_vocabulary import VOCAB_SIZE, clip_tokenizer
from .hugging_face_config import CONFIG, join_attention, mlp_ratio, read_section
from .hugging_face_preprocess import read_image_processor
from .known import named
from .layouts import State

ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # hidden_act → quick_gelu
COMMON = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
TEXT = COMMON | {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": VOCAB_SIZE - 1,
}
VISION = COMMON | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
XLM_V, XLM_V_SIZE = "facebook/xlm-v-base", 901_629  # MetaCLIP 2's tokenizer
LEGACY_END = 2  # transformers pools at the largest id when the config says this (its pull request 24773)
SPECIALS = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}  # Hugging Face's → kdx's

TOP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelled so
    "vision_model.post_layernorm": "visual.ln_post",
}
PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
BLOCK = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
QKV = re.compile(r"self_attn\.([qkv])_proj")
TOWERS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}


def read_architecture(folder: Path) -> Architecture:
    """The architecture that config.json and the files beside it that tell of preprocessing describe exactly.

    Raises DataError for settings that CLIP's towers in kdx do not have.
    """
    _check_vocabulary(folder)
    config, text, vision = _read_config(folder)
    if text["eos_token_id"] not in (LEGACY_END, text["vocab_size"] - 1):
        raise DataError(
            f"eos_token_id is {text['eos_token_id']}, not the last id {text['vocab_size'] - 1}",
            where=folder / CONFIG,
            remedy="kdx reads a CLIPModel with CLIP's own tokenizer, which ends a text with the last id",
        )
    return _described(folder, config, text, vision, {})


def read_metaclip2(folder: Path) -> Architecture:
    """As read_architecture, of a MetaClip2Model. Where the folder has no tokenizer XLM-V's is meant."""
    config, text, vision = _read_config(folder)
    known = text["vocab_size"] == XLM_V_SIZE
    reads_with = {
        "hf_tokenizer_name": XLM_V if known else folder.resolve().name,
        "pool_type": "eos",
        "eos_id": text["eos_token_id"],
    }
    return named(_described(folder, config, text, vision, reads_with))


def to_open_clip(state: State) -> State:
    """CLIPModel's keys as open_clip's; keys that belong to neither stay, and the check against the model names them.

    The matrices of query, key and value, each [W, W], become one [3W, W] in this order; the projections are
    transposed: Hugging Face's are linear layers [D, W], open_clip's are multiplied from the right.
    """
    renamed: State = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.endswith("embeddings.position_ids"):  # 0, 1, 2 …, kept by old versions
            continue
        if key in PROJECTIONS and isinstance(value, Tensor) and value.ndim == 2:
            renamed[PROJECTIONS[key]] = value.T
        elif (found := BLOCK.fullmatch(key)) and (part := QKV.fullmatch(found[3])):
            joint = f"{TOWERS[found[1]]}.{found[2]}.attn.in_proj_{found[4]}"
            attention.setdefault(joint, {})[part[1]] = value
        elif found and found[3] in PARTS:
            renamed[f"{TOWERS[found[1]]}.{found[2]}.{PARTS[found[3]]}.{found[4]}"] = value
        else:
            module, _, kind = key.rpartition(".")
            renamed[f"{NORMS[module]}.{kind}" if module in NORMS else TOP.get(key, key)] = value
    for joint, parts in attention.items():
        renamed |= join_attention(joint, parts)
    return renamed


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """config.json, and of it the text and the image tower's settings."""
    path = folder / CONFIG
    config = read_json(path)
    text, vision = read_section(config, "text", TEXT, path), read_section(config, "vision", VISION, path)
    _check_supported(text, vision, path)
    return config, text, vision


def _described(
    folder: Path,
    config: dict[str, Any],
    text: dict[str, Any],
    vision: dict[str, Any],
    reads_with: dict[str, Any],
) -> Architecture:
    """reads_with: how texts are split and pooled, where not as CLIP does it."""
    described = {
        "name": folder.resolve().name,
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": ACTIVATIONS[text["hidden_act"]],
        "vision_cfg": _tower(vision)
        | {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        },
        "text_cfg": _tower(text)
        | {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
        }
        | reads_with,
    }
    preprocess = read_image_processor(folder, vision["image_size"])
    if preprocess:
        described["preprocess_cfg"] = preprocess
    return parse_architecture(described, folder / CONFIG)


def _check_supported(text: dict[str, Any], vision: dict[str, Any], path: Path) -> None:
    acts = sorted({text["hidden_act"], vision["hidden_act"]})
    if len(acts) != 1 or acts[0] not in ACTIVATIONS:
        raise DataError(
            f"hidden_act is {' and '.join(acts)}; kdx has {' or '.join(ACTIVATIONS)}, the same in both towers",
            where=path,
            remedy="no architecture of kdx computes this model",
        )
    if vision["num_channels"] != 3:
        raise DataError(
            f"its images have {vision['num_channels']} channels", where=path, remedy="kdx reads RGB images"
        )


def _tower(section: dict[str, Any]) -> dict[str, Any]:
    width, mlp_width = section["hidden_size"], section["intermediate_size"]
    tower = {"width": width, "layers": section["num_hidden_layers"]}
    if mlp_width != 4 * width:
        tower["mlp_ratio"] = mlp_ratio(width, mlp_width)
    if section["layer_norm_eps"] != COMMON["layer_norm_eps"]:
        tower["norm_kwargs"] = {"eps": section["layer_norm_eps"]}
    return tower


def _check_vocabulary(folder: Path) -> None:
    """Raises DataError if the folder brings a vocabulary that is not CLIP's; without one, CLIP's is taken."""
    for name in ("vocab.json", "tokenizer.json"):
        path = folder / name
        if not path.is_file():
            continue
        content: Any = read_json(path)
        for key in () if name == "vocab.json" else ("model", "vocab"):
            content = content.get(key) if isinstance(content, dict) else None
        symbols = content if isinstance(content, dict) else {}
        spelled = {SPECIALS.get(symbol, symbol): number for symbol, number in symbols.items()}
        if spelled != clip_tokenizer().vocabulary:
            raise DataError(
                "is not CLIP's vocabulary, so texts would get wrong ids",
                where=path,
                remedy="kdx reads models with CLIP's own tokenizer",
            )
        return
