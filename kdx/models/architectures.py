"""Models from architectures: found by any name, built with random weights, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from open_clip.model import _build_text_tower, _build_vision_tower
from timm.layers import GELUTanh

from kdx.core.errors import UsageError
from kdx.core.spelling import nearest

from . import mini as _registers_trunks  # noqa: F401
from .architecture import Architecture, read_architecture, shipped_names
from .clip import ClipModel, CustomTextClip, PlainClip
from .hugging_face_text import HuggingFaceText
from .open_clip_architectures import is_open_clip_name, open_clip_architecture, open_clip_names
from .timm_architectures import TIMM_PREFIX, is_trunk, timm_architecture

__all__ = [
    "Architecture",
    "ParameterCounts",
    "build_model",
    "count_parameters",
    "find_architecture",
    "read_architecture",
    "shipped_names",
]


@dataclass(frozen=True)
class ParameterCounts:
    """image_params: the image tower; text_params: all else, so with the logit scale."""

    name: str
    image_params: int
    text_params: int
    total_params: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_architecture(name: str) -> Architecture:
    """An architecture that kdx does not ship; to be asked for through read_architecture."""
    if name.startswith(TIMM_PREFIX):
        architecture = timm_architecture(name)
        _check_projection_fits(architecture)
        return architecture
    if is_open_clip_name(name):
        return open_clip_architecture(name)
    raise UsageError(f"there is no architecture {name!r}", remedy=_nearest(name))


def build_model(architecture: Architecture, seed: int = 0) -> ClipModel:
    """A model with random weights that depend on `seed` alone; torch's global generator is left as it was.

    Nothing is fetched, whatever the description says.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _built(architecture)
        _fit_projection(model)
        _fit_activation(model, architecture.vision_cfg.timm_act)
    return model


def count_parameters(architecture: Architecture) -> ParameterCounts:
    """Counts without allocating weights."""
    with torch.device("meta"):
        model = build_model(architecture)
    image = sum(p.numel() for p in model.visual.parameters())
    total = sum(p.numel() for p in model.parameters())
    return ParameterCounts(architecture.name, image, total - image, total)


def _built(architecture: Architecture) -> ClipModel:
    # a CoCa's towers put out their tokens too, for the decoder that is left out
    vision = architecture.vision_cfg.changed(output_tokens=False)
    text = architecture.text_cfg.changed(output_tokens=False)
    if vision.timm_model_name:
        vision = vision.changed(timm_model_pretrained=False)
    embed_dim, quick_gelu = architecture.embed_dim, architecture.quick_gelu
    image_settings: Any = vision.to_dict()  # open_clip takes tables too
    image_settings.pop("timm_act", None)
    text_settings: Any = text.to_dict()
    logits = architecture.init_logit_scale, architecture.init_logit_bias
    if not architecture.has_text_module:
        return PlainClip(embed_dim, image_settings, text_settings, quick_gelu, *logits)
    image_tower = _build_vision_tower(embed_dim, image_settings, quick_gelu)
    if text.hf_model_name:
        text_tower = HuggingFaceText(text, embed_dim)
    else:
        text_tower = _build_text_tower(embed_dim, text_settings, quick_gelu)
    return CustomTextClip(image_tower, text_tower, text.context_length, *logits)


def _nearest(name: str) -> str:
    if is_trunk(name.partition("+")[0]):
        return f"did you mean {TIMM_PREFIX}{name}?"
    close = nearest(name, [*shipped_names(), *open_clip_names()])
    return f"did you mean {close}?" if close else "see `kdx models`, open_clip.list_models() or timm:NAME"


def _check_projection_fits(architecture: Architecture) -> None:
    """Raises UsageError if a timm trunk does not put out one vector an image, of the width that it declares.

    A forward pass on torch's meta device, which allocates and computes nothing.
    """
    size = architecture.vision_cfg.image_size
    try:
        with torch.device("meta"), torch.no_grad():
            image = build_model(architecture).eval().encode_image(torch.zeros(2, 3, size, size))
        if image.shape == (2, architecture.embed_dim):
            return
        reason = f"its output is {list(image.shape)}"
    except Exception as error:  # timm's trunks raise whatever their own code stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "reset_classifier" in reason:  # what all have that end in one vector
            reason = "it is a language model's encoder, which puts out a vector for each patch and none of the image"
    raise UsageError(f"{architecture.name} cannot be an image tower: {reason}", remedy="choose another trunk")


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


def _fit_activation(model: ClipModel, act: str | None) -> None:
    """Gives a timm trunk the form of GELU that it is to have: open_clip has no setting for it."""
    if act is None:
        return
    for module in list(model.visual.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GELU | GELUTanh):
                setattr(module, name, GELUTanh() if act == "gelu_tanh" else torch.nn.GELU())
