"""Puts foreign weights into a model, if and only if every key and shape fits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kdx.core.errors import DataError, KdxError

from ..architectures import Architecture, build_model
from ..clip import ClipModel
from .layouts import State

SHOWN = 3  # names of each kind of fault


def fit(state: State, architecture: Architecture, where: str) -> ClipModel:
    """The model with these weights, in the architecture's own dtypes (float32), for saving.

    Buffers that are computed and not saved stay on the meta device, so the model is not to be run. Raises as
    check_fit, and DataError for numbers that are not finite.
    """
    model = check_fit(state, architecture, where)
    state = _with_shared(state, model)
    weights = {key: state[key].to(like.dtype, copy=True) for key, like in model.state_dict().items()}
    _check_finite(weights, where)
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
    if model.logit_bias is not None and "logit_bias" not in state:
        raise DataError(
            f"has no logit_bias, and {architecture.name} is trained with the sigmoid loss, which adds one",
            where=where,
            remedy="get the file again; if these weights were trained without one, write logit_bias = 0 into it",
        )
    if faults := _faults(_with_shared(state, model), model.state_dict()):
        raise DataError(
            f"does not hold the weights of {architecture.name}: {faults}",
            where=where,
            remedy="it is damaged, or belongs to another architecture than the one named or found",
        )
    return model


def _with_shared(state: State, model: ClipModel) -> State:
    """The state with a weight that modules share under each of its names: some files keep one of them only."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    filled = dict(state)
    for alike in names.values():
        if given := [name for name in alike if name in state]:
            filled |= {name: state[given[0]] for name in alike if name not in state}
    return filled


def _check_finite(weights: State, where: str) -> None:
    spoilt = [key for key, value in weights.items() if not value.isfinite().all()]
    if "logit_scale" in weights and not weights["logit_scale"].exp().isfinite():
        spoilt.append("exp(logit_scale)")
    if spoilt:
        raise DataError(
            f"holds numbers that are not finite: {_first(spoilt)}",
            where=where,
            remedy="its training diverged, or it is damaged; take an earlier state",
        )


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
    kind = "float" if value.is_floating_point() else "complex" if value.is_complex() else "integer"
    layout = "" if value.layout == torch.strided and not value.is_quantized else "sparse or quantized "
    return f"{layout}{kind} {list(value.shape)}"


def _first(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
