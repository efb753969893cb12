"""How many floating-point operations a forward pass takes, counted on torch's meta device: no weights, no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from .architectures import Architecture, build_model
from .masking import encode_masked_image


@dataclass(frozen=True)
class ForwardFlops:
    """Of one sample. masked_image: with a part of the patches hidden, 0 where that was not asked for."""

    image: int
    text: int
    masked_image: int = 0


def count_flops(
    architecture: Architecture, text_length: int | None = None, mask_ratio: float | None = None
) -> ForwardFlops:
    """2 × multiply-adds of the matrix products (attention's too) and convolutions; all else is left out.

    text_length: tokens of a text; the whole context if None, or where the tower sees its padding. mask_ratio: share of
    hidden patches. Raises UsageError for a mask on a tower without patches.
    """
    size = architecture.vision_cfg.image_size
    with torch.device("meta"):
        # the counter's hooks take a view of a parameter, as SigLIP's pooling has, for a tensor that lost its gradient
        model = build_model(architecture).eval().requires_grad_(False)
        pixels = torch.empty(1, 3, size, size)
        length = text_length if text_length and architecture.text_padding == "longest" else None
        tokens = torch.empty(1, length or model.context_length, dtype=torch.long)
    counts: list[int] = []
    with torch.no_grad():
        for tower, inputs in ((model.encode_image, pixels), (model.encode_text, tokens)):
            with FlopCounterMode(display=False) as counter:
                tower(inputs)
            counts.append(counter.get_total_flops())
        if mask_ratio is not None:
            with FlopCounterMode(display=False) as counter:
                encode_masked_image(model, pixels, mask_ratio, torch.Generator())
            counts.append(counter.get_total_flops())
    return ForwardFlops(*counts)
