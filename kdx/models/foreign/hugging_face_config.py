"""What Hugging Face's models share: the type that a folder states, the tables of its config.json, attention's keys."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdx.core.errors import DataError
from kdx.core.folders import read_json

from .layouts import State

CONFIG = "config.json"


def model_type(folder: Path) -> str | None:
    """What config.json says that the folder holds; None where there is no such file, or it says nothing."""
    path = folder / CONFIG
    found = read_json(path).get("model_type") if path.is_file() else None
    return found if isinstance(found, str) else None


def read_section(config: dict[str, Any], tower: str, defaults: dict[str, Any], path: Path) -> dict[str, Any]:
    """A tower's settings, with `defaults` for what is left out; others than these are not read. Raises DataError."""
    given = config.get(f"{tower}_config_dict")
    given = config.get(f"{tower}_config") if given is None else given
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise DataError(f"{tower}_config is no table", where=path, remedy="get the file again")
    section = defaults | {key: value for key, value in given.items() if key in defaults}
    for key, default in defaults.items():
        value = section[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, type(default)) or (number and value <= 0):
            raise DataError(f"{tower}_config: {key} = {value!r}", where=path, remedy="get the file again")
    return section


def mlp_ratio(width: int, mlp_width: int) -> float:
    """The ratio that open_clip's int(width * ratio) turns into mlp_width again."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else math.nextafter(ratio, math.inf)


def join_attention(joint: str, parts: dict[str, Tensor]) -> State:
    """One tensor of query, key and value; if one is missing, the others under their own names."""
    if set(parts) == {"q", "k", "v"}:
        return {joint: torch.cat([parts[part] for part in "qkv"])}
    return {f"{joint}.{part}": tensor for part, tensor in parts.items()}
