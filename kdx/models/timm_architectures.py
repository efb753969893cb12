"""Architectures by timm's names: `timm:NAME+TEXT`, any of its trunks beside a causal text tower.

What they describe is built with random weights; nothing is fetched.
"""

from __future__ import annotations

import timm

from kdx.core.errors import UsageError
from kdx.core.spelling import nearest

from .architecture import Architecture
from .clip_vocabulary import VOCAB_SIZE

TIMM_PREFIX = "timm:"
TEXT_TOWERS = {  # width, heads and layers; CLIP-KD's are T, B and L
    "XS": (192, 3, 4),
    "S": (256, 4, 6),
    "T": (384, 6, 12),
    "B": (512, 8, 12),
    "L": (768, 12, 12),
}
EMBED_DIM = 512  # that of all of CLIP-KD's timm students


def timm_architecture(name: str) -> Architecture:
    """`timm:NAME+TEXT`: a timm trunk with its own pooling and a linear projection, beside a causal text tower.

    TEXT: XS (width 192, 4 layers), S (256, 6), or with 12 layers T (384), B (512) or L (768); T without it. Of XS and S
    most are the embeddings of CLIP's 49,408 tokens: 11.4 and 17.5 M parameters in all. embed_dim 512, the image size is
    the trunk's default, the preprocessing CLIP's, like CLIP-KD's timm students. Raises UsageError for what timm or kdx
    does not know.
    """
    trunk, plus, text = name.removeprefix(TIMM_PREFIX).partition("+")
    text = text if plus else "T"
    if text not in TEXT_TOWERS:
        raise UsageError(
            f"{name}: there is no text tower {text!r}", remedy=f"choose {', '.join(TEXT_TOWERS)}"
        )
    _check_trunk(name, trunk, text)
    width, heads, layers = TEXT_TOWERS[text]
    return Architecture.model_validate(
        {
            "name": f"{TIMM_PREFIX}{trunk}+{text}",
            "embed_dim": EMBED_DIM,
            "vision_cfg": {
                "timm_model_name": trunk,
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": _image_size(name, trunk),
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": VOCAB_SIZE,
                "width": width,
                "heads": heads,
                "layers": layers,
            },
        }
    )


def is_trunk(name: str) -> bool:
    """Whether timm has a model of this name."""
    return name in timm.list_models()


def _check_trunk(name: str, trunk: str, text: str) -> None:
    if is_trunk(trunk):
        return
    base = trunk.partition(".")[0]
    if is_trunk(base):
        raise UsageError(
            f"{name}: {trunk} names published weights, and kdx starts from random ones",
            remedy=f"write {TIMM_PREFIX}{base}+{text}",
        )
    close = nearest(trunk, timm.list_models())
    remedy = f"did you mean {TIMM_PREFIX}{close}+{text}?" if close else "see timm.list_models()"
    raise UsageError(f"{name}: timm has no model {trunk!r}", remedy=remedy)


def _image_size(name: str, trunk: str) -> int:
    config = timm.get_pretrained_cfg(trunk)
    channels, height, width = (0, 0, 0) if config is None else config.input_size
    if channels != 3 or height != width:
        raise UsageError(
            f"{name}: {trunk} takes {channels} × {height} × {width}, not square RGB images",
            remedy="choose another trunk",
        )
    return height
