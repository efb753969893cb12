"""Architectures are data: one JSON file each in open_clip's layout, found by name.

Besides open_clip's keys (embed_dim, vision_cfg, text_cfg, quick_gelu) a file may hold `preprocess_cfg`
(mean, std, interpolation, resize_mode) and `about`, a line for `kdx models`. Names that have no file are open_clip's
(open_clip_architectures.py) or timm's (timm_architectures.py).
"""

from __future__ import annotations

import difflib
import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kdx.core.errors import UsageError
from kdx.core.preprocess import Preprocess

from . import mini as _registers_trunks  # noqa: F401
from .clip import ClipModel
from .open_clip_architectures import is_open_clip_name, open_clip_architecture, open_clip_names
from .shipped import Architecture, names, read_shipped
from .timm_architectures import TIMM_PREFIX, is_trunk, timm_architecture

__all__ = [
    "Architecture",
    "ParameterCounts",
    "build_model",
    "count_parameters",
    "names",
    "preprocess_of",
    "read_architecture",
]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

INITIAL_LOG_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class ParameterCounts:
    """image_params: the image tower; text_params: all else, so with the logit scale."""

    name: str
    image_params: int
    text_params: int
    total_params: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_architecture(name: str) -> Architecture:
    """The description of a named architecture: a shipped one, else open_clip's, or `timm:NAME+TEXT`.

    Raises UsageError with the nearest known name, or saying why that model cannot be built as a ClipModel.
    """
    if name in names():
        return read_shipped(name)
    if name.startswith(TIMM_PREFIX):
        architecture = timm_architecture(name)
        _check_projection_fits(architecture["name"])
        return architecture
    if is_open_clip_name(name):
        return open_clip_architecture(name)
    raise UsageError(f"there is no architecture {name!r}", remedy=_nearest(name))


def build_model(architecture: str | Architecture, seed: int = 0) -> ClipModel:
    """A model with random weights that depend on `seed` alone; torch's global generator is left as it was.

    Nothing is fetched, whatever the description says.
    """
    described = read_architecture(architecture) if isinstance(architecture, str) else architecture
    vision: Any = described["vision_cfg"]
    if vision.get("timm_model_name"):
        vision = {**vision, "timm_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ClipModel(
            embed_dim=described["embed_dim"],
            vision_cfg=vision,
            text_cfg=described["text_cfg"],
            quick_gelu=described.get("quick_gelu", False),
            init_logit_scale=described.get("init_logit_scale", INITIAL_LOG_SCALE),
            init_logit_bias=described.get("init_logit_bias"),
        )
        _fit_projection(model)
    return model


def preprocess_of(architecture: Architecture) -> Preprocess:
    """The preprocessing that the architecture is trained, evaluated and served with."""
    settings = {"mean": OPENAI_MEAN, "std": OPENAI_STD, **architecture.get("preprocess_cfg", {})}
    settings["mean"], settings["std"] = tuple(settings["mean"]), tuple(settings["std"])
    return Preprocess(image_size=architecture["vision_cfg"]["image_size"], **settings)


def count_parameters(architecture: str | Architecture) -> ParameterCounts:
    """Counts without allocating weights."""
    name = architecture if isinstance(architecture, str) else architecture["name"]
    with torch.device("meta"):
        model = build_model(architecture)
    image = sum(p.numel() for p in model.visual.parameters())
    total = sum(p.numel() for p in model.parameters())
    return ParameterCounts(name, image, total - image, total)


def _nearest(name: str) -> str:
    if is_trunk(name.partition("+")[0]):
        return f"did you mean {TIMM_PREFIX}{name}?"
    close = difflib.get_close_matches(name, [*names(), *open_clip_names()], n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else "see `kdx models`, open_clip.list_models() or timm:NAME"


@functools.cache
def _check_projection_fits(name: str) -> None:
    """Raises UsageError if a timm trunk does not put out one vector an image, of the width that it declares.

    A forward pass on torch's meta device, which allocates and computes nothing.
    """
    architecture = timm_architecture(name)
    size = architecture["vision_cfg"]["image_size"]
    try:
        with torch.device("meta"), torch.no_grad():
            image = build_model(architecture).eval().encode_image(torch.zeros(2, 3, size, size))
        if image.shape == (2, architecture["embed_dim"]):
            return
        reason = f"its output is {list(image.shape)}"
    except Exception as error:  # timm's trunks raise whatever their own code stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UsageError(f"{name} cannot be an image tower: {reason}", remedy="choose another trunk")


def _fit_projection(model: ClipModel) -> None:
    """Sizes a timm tower's projection by what its trunk really puts out.

    open_clip 3.3 takes `num_features`; since timm 1.0 a trunk with a head convolution (MobileNetV3) puts out
    `head_hidden_size` features instead, and the forward pass would fail.
    """
    trunk, head = getattr(model.visual, "trunk", None), getattr(model.visual, "head", None)
    features = getattr(trunk, "head_hidden_size", None)
    projection = getattr(head, "proj", None)
    if not isinstance(projection, torch.nn.Linear) or features in (None, projection.in_features):
        return
    assert head is not None
    head.proj = torch.nn.Linear(features, projection.out_features, bias=projection.bias is not None)
