"""Weights that are told by their keys and that no architecture of kdx holds, each with its reason."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from kdx.core.errors import DataError

from .files import State

MERGED = ".reparam_conv."
ATTENTION = re.compile(r"(.*\bresblocks)\.(\d+)\.attn\.in_proj_weight")


def refuse_unreadable(state: State, where: str) -> None:
    """state: in kdx's layout. Raises DataError."""
    if any(MERGED in key for key in state):
        raise DataError(
            "holds a MobileCLIP whose branches are merged for inference, which can no longer be trained",
            where=where,
            remedy="give the weights as they were published or trained; `kdx export` merges the branches",
        )
    if any(".token_mixer." in key and not key.startswith("visual.") for key in state):
        raise DataError(
            "is MobileCLIP-S0 of the first version: its text tower mixes tokens by convolutions, which open_clip's"
            " towers do not",
            where=where,
            remedy="take MobileCLIP2-S0, or MobileCLIP-S1",
        )
    if uneven := _uneven_tower(state):
        raise DataError(
            f"its layers are not all alike ({uneven}), as in a TinyCLIP of automatic weight inheritance, which prunes"
            " each by itself",
            where=where,
            remedy="take one of manual inheritance, such as TinyCLIP-ViT-40M-32-Text-19M",
        )


def _uneven_tower(state: State) -> str | None:
    """What differs between the first layer of a tower and another."""
    first: dict[str, Any] = {}
    for key, value in state.items():
        if (found := ATTENTION.fullmatch(key)) and isinstance(value, Tensor):
            shape = first.setdefault(found[1], (key, list(value.shape)))
            if shape[1] != list(value.shape):
                return f"{shape[0]} is {shape[1]}, {key} {list(value.shape)}"
    return None
