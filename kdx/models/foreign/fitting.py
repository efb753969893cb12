"""Puts foreign weights into a model, if and only if every key and shape fits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kdx.core.errors import DataError, KdxError

from ..architectures import Architecture, build_model
from ..clip import ClipModel
from ..open_clip_architectures import why_not
from .layouts import State

SHOWN = 3  # names of each kind of fault


def check_towers(described: dict[str, Any], where: str) -> None:
    """Raises DataError if a ClipModel cannot hold an architecture or a configuration of open_clip."""
    if reason := why_not(described):
        raise DataError(
            f"is a model that kdx cannot build: {reason}",
            where=where,
            remedy="take a model with CLIP's text tower",
        )


def fit(state: State, architecture: Architecture, where: str) -> ClipModel:
    """The model with these weights, in the architecture's own dtypes (float32), for saving.

    Buffers that are computed and not saved stay on the meta device, so the model is not to be run. Raises as
    check_fit.
    """
    model = check_fit(state, architecture, where)
    weights = {key: state[key].to(like.dtype, copy=True) for key, like in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def check_fit(state: State, architecture: Architecture, where: str) -> ClipModel:
    """The model without memory (on the meta device), if every key and shape fits it.

    Raises DataError that names the first missing, surplus and misshapen keys, or says why the architecture cannot
    be built.
    """
    try:
        with torch.device("meta"):
            model = build_model(architecture)
    except KdxError:
        raise
    except Exception as error:  # a foreign configuration makes open_clip and timm raise what they like
        reason = " ".join(str(error).split())
        raise DataError(
            f"describes a model that cannot be built: {reason}", where=where, remedy="check its configuration"
        ) from None
    if faults := _faults(state, model.state_dict()):
        raise DataError(
            f"does not hold the weights of {architecture['name']}: {faults}",
            where=where,
            remedy="it is damaged, or belongs to another architecture than the one named or found",
        )
    return model


def _faults(state: State, expected: dict[str, Tensor]) -> str:
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    both = [key for key in expected if key in state]
    misshapen = [
        f"{key} is {_form(state[key])}, not {_form(expected[key])}"
        for key in both
        if _form(state[key]) != _form(expected[key])
    ]
    kinds = (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
    return "; ".join(f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds if keys)


def _form(value: object) -> str:
    """Shape, and whether the numbers are whole: 16-bit floats fit where 32-bit ones are expected."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{'float' if value.is_floating_point() else 'integer'} {list(value.shape)}"


def _first(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
