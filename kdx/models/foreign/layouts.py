"""From the key layouts that CLIP checkpoints come in to those of kdx, which are open_clip's.

Each step is a function from a state dict to a state dict, and changes nothing where its layout is not met.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .eva_clip import from_eva_clip
from .files import State
from .mobileclip import from_mobileclip, from_mobileclip_b
from .perception_encoder import from_perception_encoder

WRAPPERS = ("module.", "model.")  # DistributedDataParallel, a training module around the model
COMPILED = re.compile(r"(^|\.)(?:_orig_mod\.)+")  # torch.compile
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
TINYCLIP = re.compile(  # its three modules, and the wrapper around each
    r"(?:_image_encoder|_text_encoder|_logit_scale|image_encoder_without_ddp|text_encoder_without_ddp)\.(?:module\.)?"
)
UNWRAPPED = "removed the prefix that DistributedDataParallel or torch.compile puts before every key"
TEXT = "text."  # before the names of a text tower that is a module of its own
CLASSIFIER = "visual.trunk.classifier"
PROJECTION = "visual.head.proj.weight"


@dataclass(frozen=True)
class Normalised:
    """A state dict in kdx's layout. changes: what had to be done, a line each.

    from_openai: the file carries the sizes that only OpenAI's own files do, so its towers use QuickGELU.
    """

    state: State
    changes: tuple[str, ...]
    from_openai: bool


def normalise(state: State) -> Normalised:
    """Brings any known layout into kdx's. Unknown keys stay as they are: the check against the model names them."""
    changes = []
    from_openai = False
    for step, change in STEPS:
        after = step(state)
        if after.keys() != state.keys():
            dropped = len(state) - len(after)
            changes.append(f"{change} ({dropped} entries)" if dropped > 0 else change)
            from_openai |= step is drop_openai_sizes
        state = after
    return Normalised(shape_scales(state), tuple(changes), from_openai)


def strip_wrappers(state: State) -> State:
    """Removes the prefixes that wrappers put before every key, and torch.compile's inside them (a compiled tower)."""
    compiled = {COMPILED.sub(r"\1", key): value for key, value in state.items()}
    state = compiled if len(compiled) == len(state) else state  # else two keys would become one
    while around := [prefix for prefix in WRAPPERS if state and all(key.startswith(prefix) for key in state)]:
        state = {key.removeprefix(around[0]): value for key, value in state.items()}
    return state


def join_tinyclip(state: State) -> State:
    """TinyCLIP's files keep each tower and the scale of the logits in a module of its own."""
    joined = {
        TINYCLIP.sub("", key, count=1) if TINYCLIP.match(key) else key: value for key, value in state.items()
    }
    return joined if len(joined) == len(state) else state


def lift_text_tower(state: State) -> State:
    """open_clip's CustomTextCLIP keeps the text tower under `text.`, CLIP at the top level."""
    lifted = {key.removeprefix(TEXT): value for key, value in state.items()}
    return lifted if len(lifted) == len(state) else state  # a key in both places: the check will name it


def place_text_tower(state: State, *, own_module: bool) -> State:
    """The text tower where the model keeps it: under `text.`, or at the top level."""
    lifted = lift_text_tower(state)
    if not own_module:
        return lifted
    return {
        key if key.startswith(("visual.", "logit_")) else f"{TEXT}{key}": value
        for key, value in lifted.items()
    }


def drop_text_decoder(state: State) -> State:
    """A CoCa's decoder writes captions from what both towers put out; no embedding passes through it."""
    return {key: value for key, value in state.items() if not key.startswith("text_decoder.")}


def drop_openai_sizes(state: State) -> State:
    """OpenAI's files carry three integers as if they were weights."""
    return {key: value for key, value in state.items() if key not in OPENAI_SIZES}


def drop_masks(state: State) -> State:
    """Old files carry the causal mask, or a Hugging Face tower's positions, which are computed."""
    computed = ("attn_mask", f"{TEXT}attn_mask", f"{TEXT}transformer.embeddings.position_ids")
    return {key: value for key, value in state.items() if key not in computed}


def rename_old_swin(state: State) -> State:
    """timm before 0.8 kept a Swin's downsampling at the end of a stage, later ones keep it at the start of the next.

    The names for stages 1 and 2 mean other weights in the two layouts, so all are renamed at once. Only the old one
    has a `layers.0.downsample`.
    """
    stage = re.compile(r"visual\.trunk\.layers\.(\d+)\.downsample\.(.+)")
    if not any((found := stage.fullmatch(key)) and found[1] == "0" for key in state):
        return state
    moved = r"visual.trunk.layers.{}.downsample.{}"
    return {
        moved.format(int(found[1]) + 1, found[2]) if (found := stage.fullmatch(key)) else key: value
        for key, value in state.items()
    }


def drop_swin_buffers(state: State) -> State:
    """Old files carry a Swin's tables of positions and masks, which are computed."""
    table = re.compile(r"visual\.trunk\..*(relative_position_index|blocks\.\d+\.attn_mask)")
    return {key: value for key, value in state.items() if not table.fullmatch(key)}


def classifier_to_projection(state: State) -> State:
    """The inverse of projection_to_classifier: a classifier without bias is a projection."""
    bias = state.get(f"{CLASSIFIER}.bias")
    if PROJECTION in state or not isinstance(bias, Tensor) or bias.count_nonzero():
        return state
    renamed = {PROJECTION if key == f"{CLASSIFIER}.weight" else key: value for key, value in state.items()}
    del renamed[f"{CLASSIFIER}.bias"]
    return renamed


def projection_to_classifier(state: State) -> State:
    """The head projection as the trunk's own classifier with a bias of zero.

    open_clip 3.3 sizes the projection of a MobileNetV3 by `num_features` and then fails in its forward pass; the
    trunk's own classifier has the right width.
    """
    weight = state[PROJECTION]
    renamed = {f"{CLASSIFIER}.weight" if key == PROJECTION else key: value for key, value in state.items()}
    return {**renamed, f"{CLASSIFIER}.bias": torch.zeros(weight.shape[0], dtype=weight.dtype)}


def shape_scales(state: State) -> State:
    """The scale and the bias of the logits as scalars; some files keep them as [1]."""
    return {
        key: value.reshape(())
        if key in ("logit_scale", "logit_bias") and isinstance(value, Tensor) and value.numel() == 1
        else value
        for key, value in state.items()
    }


STEPS: tuple[tuple[Callable[[State], State], str], ...] = (
    (strip_wrappers, UNWRAPPED),
    (join_tinyclip, "put the towers together, which TinyCLIP keeps apart"),
    (from_mobileclip, "renamed Apple's MobileCLIP to open_clip's, with timm's image tower"),
    (
        from_mobileclip_b,
        "renamed Apple's MobileCLIP-B to open_clip's, whose image tower does not pad: embeddings differ a little",
    ),
    (from_perception_encoder, "renamed Meta's Perception Encoder to open_clip's, with timm's image tower"),
    (from_eva_clip, "renamed BAAI's EVA-CLIP to open_clip's, with timm's image tower"),
    (drop_text_decoder, "dropped the decoder that writes captions (CoCa): kdx has its two towers alone"),
    (drop_openai_sizes, "dropped OpenAI's input_resolution, context_length and vocab_size"),
    (drop_masks, "dropped the text tower's mask or positions, which are computed"),
    (rename_old_swin, "renamed the downsampling of an old timm Swin to the stage where it is now"),
    (drop_swin_buffers, "dropped a Swin's position tables and masks, which are computed"),
    (classifier_to_projection, "took the trunk's classifier, which has no bias, for the projection"),
)
