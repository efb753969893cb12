"""Which architecture a state dict belongs to, seen from its keys and shapes alone.

Shapes show widths, depths, patch and image size. They do not show the number of heads, the activation or how images
are prepared: a known architecture of the same shapes answers that, or what is usual for CLIP is taken, and said.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdx.core.errors import DataError

from ..architecture import TextConfig
from ..architectures import Architecture, build_model, shipped_names
from ..hugging_face_text import hugging_face_config
from .hugging_face_config import mlp_ratio
from .known import known_architectures, model_key
from .layouts import TEXT, State, lift_text_tower

HEAD_WIDTH = 64  # of every CLIP model but open_clip's largest, which are known by name
SAME_TRUNK = (
    0.8  # share of equal keys and shapes from which a trunk is the one meant, though the file be damaged
)
NAME_IT = "name it with --architecture: a name of kdx, of open_clip, or timm:NAME+TEXT"
TEXT_KEYS = ("token_embedding.weight", "positional_embedding", "text_projection")
SHOWN_BY_WEIGHTS = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
    *("ls_init_value", "proj_bias"),
)
TEXT_SIZES = (
    *("context_length", "vocab_size", "width", "layers", "mlp_width"),
    *("hf_model_name", "embed_cls", "proj_type", "proj_bias"),
)


@dataclass(frozen=True)
class Identified:
    """architecture: to be checked against the weights. assumptions: what the weights do not show, a line each."""

    architecture: Architecture
    assumptions: tuple[str, ...]


def identify(state: State, where: str, *, quick_gelu: bool) -> Identified:
    """state: in kdx's layout. quick_gelu: what is known about the activation, which no weight shows.

    Raises DataError when this is no CLIP model, or one of which the sizes cannot be read.
    """
    custom_text = any(key.startswith(TEXT) for key in state)
    state = lift_text_tower(state)
    if alike := _known_whole(state):
        described = alike[0].changed(quick_gelu=quick_gelu or alike[0].quick_gelu)
        return _choose(alike, described, where)
    _refuse_others(state, where)
    text = _text(state, where)
    if text.get("proj_bias"):
        embed_dim = _shape(state, "text_projection.weight", 2, where)[0]
    else:
        embed_dim = _shape(state, "text_projection", 2, where)[1]
    common = {"embed_dim": embed_dim, "text_cfg": text, "quick_gelu": quick_gelu}
    if custom_text:
        common["custom_text"] = True
    if "logit_bias" in state:
        common["init_logit_bias"] = 0.0
    if any(key.startswith("visual.trunk.") for key in state):
        return _known_trunk(state, common, where)
    tower = _resnet(state, where) if "visual.layer1.0.conv1.weight" in state else _vit(state, where)
    return _known_or_new(_described(common, tower), where)


def _described(common: dict[str, Any], vision: dict[str, Any]) -> Architecture:
    return Architecture.model_validate({"name": "", **common, "vision_cfg": vision})


def _refuse_others(state: State, where: str) -> None:
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        raise DataError(
            "holds a Hugging Face model, whose config.json says what it is",
            where=where,
            remedy="give the folder with config.json and the weights",
        )
    others = {
        "proj.": "a Hugging Face text tower",
        "transformer.embeddings.": "a Hugging Face text tower",
        "visual.attn_pool.": "an attention pooler in its image tower (CoCa)",
        "cls_emb": "a class token in its text tower (CoCa)",
    }
    for prefix, what in others.items():
        if any(key.startswith(prefix) for key in state):
            near = [known.name for known in _of_vocabulary(state)]
            among = f"; by its vocabulary it may be {' or '.join(near)}" if near else ""
            raise DataError(
                f"holds {what}, whose sizes its weights do not show{among}", where=where, remedy=NAME_IT
            )
    if missing := [key for key in TEXT_KEYS if key not in state and f"{key}.weight" not in state]:
        found = ", ".join(list(state)[:3])
        raise DataError(
            f"is no CLIP model of a known layout: there is no {', no '.join(missing)}; it begins with {found}",
            where=where,
            remedy="`kdx import --help` tells whose files are read; one tower alone is not",
        )


def _known_whole(state: State) -> list[Architecture]:
    """The known architectures with exactly these keys and shapes, of those whose sizes cannot be read off them."""
    plain = "text_projection" in state or "text_projection.weight" in state
    if plain and not any(key.startswith(("cls_emb", "visual.attn_pool.")) for key in state):
        return []
    found = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    alike: list[Architecture] = []
    for known in _of_vocabulary(state):
        with torch.device("meta"):
            expected = lift_text_tower(build_model(known).state_dict())
        if found == {key: tuple(tensor.shape) for key, tensor in expected.items()}:
            alike.append(known)
    return alike


def _of_vocabulary(state: State) -> list[Architecture]:
    """CoCa's, those with a Hugging Face text tower and those without a text projection, with as many ids."""
    text = (value for key, value in state.items() if not key.startswith("visual."))
    rows = {value.shape[0] for value in text if isinstance(value, Tensor) and value.ndim == 2}
    return [
        known
        for known in known_architectures()
        if known.text_cfg.hf_model_name
        or known.vision_cfg.attentional_pool
        or known.text_cfg.embed_cls
        or known.text_cfg.proj_type == "none"
        if _vocabulary_size(known) in rows
    ]


def _vocabulary_size(known: Architecture) -> int | None:
    text = known.text_cfg
    return (hugging_face_config(text) or {}).get("vocab_size") if text.hf_model_name else text.vocab_size


def _text(state: State, where: str) -> dict[str, Any]:
    context_length, width = _shape(state, "positional_embedding", 2, where)
    return {
        "context_length": context_length,
        "vocab_size": _shape(state, "token_embedding.weight", 2, where)[0],
        "width": width,
        "heads": max(1, width // HEAD_WIDTH),
        **({"proj_bias": True} if "text_projection.bias" in state else {}),
        **_blocks(state, "transformer.resblocks", width, where),
    }


def _vit(state: State, where: str) -> dict[str, Any]:
    width, _, patch, _ = _shape(state, "visual.conv1.weight", 4, where)
    positions = _shape(state, "visual.positional_embedding", 2, where)[0]
    tower: dict[str, Any] = {
        "image_size": patch * _side(positions - 1, "visual.positional_embedding", where),
        "width": width,
        "patch_size": patch,
        **_blocks(state, "visual.transformer.resblocks", width, where),
    }
    if width % HEAD_WIDTH:
        tower["head_width"] = width // max(1, width // HEAD_WIDTH)
    if "visual.ln_pre.weight" not in state:
        tower["no_ln_pre"] = True
    return tower


def _resnet(state: State, where: str) -> dict[str, Any]:
    stages = [_count(state, rf"visual\.layer{stage}") for stage in (1, 2, 3, 4)]
    positions = _shape(state, "visual.attnpool.positional_embedding", 2, where)[0]
    return {
        "image_size": 32 * _side(positions - 1, "visual.attnpool.positional_embedding", where),
        "layers": stages,
        "width": _shape(state, "visual.layer1.0.conv1.weight", 4, where)[0],
        "patch_size": None,
    }


def _blocks(state: State, prefix: str, width: int, where: str) -> dict[str, Any]:
    layers = _count(state, re.escape(prefix))
    if not layers:
        raise DataError(f"has no block {prefix}.0", where=where, remedy=NAME_IT)
    mlp_width = _shape(state, f"{prefix}.{layers - 1}.mlp.c_fc.weight", 2, where)[0]
    found: dict[str, Any] = {"layers": layers}
    if mlp_width != 4 * width:
        found["mlp_ratio"] = mlp_ratio(width, mlp_width)
    if f"{prefix}.0.ls_1.gamma" in state:
        found["ls_init_value"] = 1e-4  # overwritten by the weights
    return found


def _known_or_new(described: Architecture, where: str) -> Identified:
    """The known architecture of these shapes, or a new one with what CLIP's models have in common."""
    same = [known for known in known_architectures() if _visible(known) == _visible(described)]
    if same:
        return _choose(same, described, where)
    vision = described.vision_cfg
    if isinstance(vision.layers, tuple):
        kind, size = "resnet", "-".join(map(str, vision.layers))
    else:
        kind, size = f"vit-p{vision.patch_size}", str(vision.layers)
    name = f"{kind}-{size}x{vision.width}-{vision.image_size}"
    name += "-quickgelu" if described.quick_gelu else ""
    heads = f"heads: {HEAD_WIDTH} wide, as no known architecture has these shapes"
    texts = "how texts are read: causally, and at their end, as CLIP does"
    return Identified(described.changed(name=name), (heads, texts, *_assumed(described)))


def _known_trunk(state: State, common: dict[str, Any], where: str) -> Identified:
    """The timm trunk of a known architecture that shares most keys and shapes with the file.

    kdx's own come first; open_clip's, which take seconds to lay out, only if none of these fits.
    """
    visual = {key: value for key, value in state.items() if key.startswith("visual.")}
    found = {key: tuple(value.shape) for key, value in visual.items() if isinstance(value, Tensor)}
    timm = [known for known in known_architectures() if known.vision_cfg.timm_model_name]
    ours = set(shipped_names())
    for group in (
        [known for known in timm if known.name in ours],
        [known for known in timm if known.name not in ours and known.embed_dim == common["embed_dim"]],
    ):
        trunks = {_trunk(known): known for known in group}
        shares = {trunk: _share(found, known, common["embed_dim"]) for trunk, known in trunks.items()}
        best = max(shares.values(), default=0.0)
        if best < SAME_TRUNK:
            continue
        alike = [known for known in group if shares[_trunk(known)] == best]
        vision = alike[0].vision_cfg
        described = _described(common, vision.to_dict()).changed(name=f"clip-{vision.timm_model_name}")
        wanted = _visible(described, trunk=False)
        if same := [known for known in alike if _visible(known, trunk=False) == wanted]:
            return _choose(same, described, where)
        described = described.changed(text_cfg=_read_as(alike, common["text_cfg"], where))
        texts = f"how texts are read: {_told(described)}, as by the known models with this image tower"
        return Identified(described, (texts, *_assumed(described)))
    raise DataError("has a timm image tower that kdx does not recognise", where=where, remedy=NAME_IT)


def _read_as(known: list[Architecture], text: dict[str, Any], where: str) -> TextConfig:
    """The sizes of `text` with all that weights do not show (mask, pooling, tokenizer), as the known models have it:
    those of the same vocabulary, else all. Raises DataError where these differ.
    """
    known = [each for each in known if each.text_cfg.vocab_size == text["vocab_size"]] or known
    ways = [
        {field: value for field, value in each.text_cfg.to_dict().items() if field not in SHOWN_BY_WEIGHTS}
        for each in known
    ]
    if other := next((each for each, way in zip(known, ways, strict=True) if way != ways[0]), None):
        raise DataError(
            f"reads texts as {known[0].name} does or as {other.name}, which its weights do not show",
            where=where,
            remedy="give the folder with its open_clip_config.json",
        )
    return TextConfig.model_validate({**ways[0], **text})


def _told(described: Architecture) -> str:
    causal = "not causally" if described.text_cfg.no_causal_mask else "causally"
    return f"{causal}, pooled by {described.text_pooling}, {described.text_cfg.tokenizer_name or 'CLIP'}'s tokens"


def _trunk(known: Architecture) -> tuple[str | None, ...]:
    vision = known.vision_cfg
    return vision.timm_model_name, vision.timm_proj, vision.timm_pool


def _choose(same: list[Architecture], described: Architecture, where: str) -> Identified:
    """The one of several architectures with equal shapes: the first of kdx's, or the only one of open_clip's."""
    activated = [known for known in same if known.quick_gelu == described.quick_gelu]
    chosen = (activated or same)[0]
    rivals = {known.name for known in activated if model_key(known) != model_key(chosen)}
    if rivals and chosen.name not in shipped_names():
        raise DataError(
            f"has the shapes of {chosen.name} and of {', '.join(sorted(rivals))}",
            where=where,
            remedy="say which with --architecture",
        )
    if not activated:
        chosen = chosen.changed(quick_gelu=described.quick_gelu, name=f"{chosen.name}-quickgelu")
    if described.init_logit_bias is not None:
        chosen = chosen.changed(init_logit_bias=described.init_logit_bias)
    return Identified(chosen, tuple(_assumed(chosen)))


def _assumed(described: Architecture) -> list[str]:
    prepared = (
        "as all of open_clip's published weights of this architecture"
        if "preprocess_cfg" in described.model_fields_set
        else "OpenAI's mean and std, shorter side by bicubic, then the middle"
    )
    lines = [f"how images are prepared: {prepared}"]
    if not described.quick_gelu:
        lines.append("the activation: GELU (--quick-gelu for OpenAI's, DFN's and MetaCLIP's models)")
    return lines


def _visible(described: Architecture, *, trunk: bool = True) -> dict[str, Any]:
    """What of an architecture its keys and shapes show; without its image tower if `trunk` is not set."""
    full = model_key(described)
    vision, text = full["vision"], full["text"]
    sizes = ("layers", "width", "image_size", "patch_size", "mlp_width", "no_ln_pre", "timm_model_name")
    return {
        "embed_dim": full["embed_dim"],
        "text": [text[field] for field in TEXT_SIZES],
        "vision": {field: vision[field] for field in sizes if field in vision} if trunk else None,
        "scaled": trunk and vision.get("ls_init_value") is not None,
    }


def _share(found: dict[str, tuple[int, ...]], known: Architecture, embed_dim: int) -> float:
    """Equal keys with equal shapes, by all keys of the file's and the known architecture's image tower."""
    no_text = TextConfig(width=HEAD_WIDTH, heads=1, layers=1)
    with torch.device("meta"):
        model = build_model(known.changed(embed_dim=embed_dim, text_cfg=no_text))
    expected = model.visual.state_dict(prefix="visual.")
    shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    return len(found.items() & shapes.items()) / len(found.keys() | shapes.keys())


def _shape(state: State, key: str, ndim: int, where: str) -> tuple[int, ...]:
    tensor = state.get(key)
    if not isinstance(tensor, Tensor):
        raise DataError(f"has no tensor {key}", where=where, remedy="it is incomplete; get it again")
    if tensor.ndim != ndim or 0 in tensor.shape:
        raise DataError(
            f"{key} is {list(tensor.shape)}, with {ndim} dimensions expected",
            where=where,
            remedy="it is no CLIP model of a known layout",
        )
    return tuple(tensor.shape)


def _count(state: State, prefix: str) -> int:
    """One more than the highest number after the prefix."""
    numbered = re.compile(rf"{prefix}\.(\d+)\.")
    count = max((int(found[1]) + 1 for key in state if (found := numbered.match(key))), default=0)
    return min(count, len(state))  # so that no number in a key decides how much is built


def _side(patches: int, key: str, where: str) -> int:
    side = math.isqrt(max(patches, 0))
    if not side or side * side != patches:
        raise DataError(
            f"{key} has places for {patches} patches, which is no square", where=where, remedy=NAME_IT
        )
    return side
