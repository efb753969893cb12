"""BatchNorm folded into the convolution before it, in the precision of the weights."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdx.core.errors import UsageError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(trunk: nn.Module, example: Tensor, name: str) -> None:
    """Folds, in place, each BatchNorm whose input is a convolution's output and nobody else's.

    The pairs are read from the traced trunk: in a pre-activation network the convolution's output goes on elsewhere
    as well, which the modules do not show. Raises UsageError for a trunk that cannot be traced.
    """
    if not any(isinstance(module, BATCH_NORMS) for module in trunk.modules()):
        return
    for convolution, norm in _pairs(trunk, example, name):
        module, after = trunk.get_submodule(norm), _without_norm(trunk.get_submodule(norm))
        if after is not None:
            _fold(trunk.get_submodule(convolution), module)
            trunk.set_submodule(norm, after)


def _fold(convolution: Any, norm: Any) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def _without_norm(norm: nn.Module) -> nn.Module | None:
    """What such a module still does when its normalization is gone; None for a class that nothing is known of."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)  # pyright: ignore[reportArgumentType]
    return nn.Identity() if type(norm) is nn.BatchNorm2d else None


def _pairs(trunk: nn.Module, example: Tensor, name: str) -> list[tuple[str, str]]:
    """The names of the modules (convolution, BatchNorm) of each pair, from those of their tensors in the graph."""
    try:
        program = torch.export.export(trunk, (example,))
    except Exception as error:  # torch.export raises whatever its tracing stumbles over
        raise UsageError(
            f"{name} does not export: {str(error).strip().splitlines()[0][:200]}",
            remedy="choose another architecture",
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found: list[tuple[str, str]] = []
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.batch_norm.default:
            continue
        source, mean = node.args[0], node.args[3]
        if source.target is not torch.ops.aten.conv2d.default or len(source.users) != 1:
            continue
        weight = source.args[1]
        # a weight that is computed, or serves two convolutions, is no module's to change
        if weight.op == "placeholder" and len(weight.users) == 1 and mean is not None:
            found.append((_module(names[weight.name]), _module(names[mean.name])))
    return found


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]
