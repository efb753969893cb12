"""fp16 and bf16: the towers cast in PyTorch before they are exported, and what stays in fp32.

What half precision is known to break, a sum over many values or an exponential, is computed in fp32 through casts in
the graph: LayerNorm and its relatives (as open_clip's LayerNormFp32 does), softmax, and the final normalization; also
what a runtime has in fp32 alone. PyTorch's own kernels compute these in fp32 inside, whatever the type of their
tensors; other runtimes do what the graph says. BatchNorm is folded into the convolution before it while all is fp32:
its variances leave the range of fp16.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from kdx.core.errors import UsageError
from kdx.models.checkpoint import Checkpoint
from kdx.models.clip import ClipModel

from .batch_norm_folding import BATCH_NORMS, fold_batch_norms
from .branch_merging import merge_branches

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
)
# Nodes that are computed in fp32 instead of these: attention has no module for its softmax that could be given hooks,
# and NVIDIA's parser (TensorRT-RTX 1.7.1) takes HardSwish in fp16 and not in bf16
IN_FP32 = {
    "Softmax": (ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
    "HardSwish": (ir.DataType.BFLOAT16,),
}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, *BATCH_NORMS)


def cast_towers(checkpoint: Checkpoint, dtype: torch.dtype) -> ClipModel:
    """A copy of the checkpoint's model whose towers compute in `dtype`, with merged branches; for float32 the model
    itself, if it has none.

    It takes float32 pixels and int tokens as the original does; what it returns is `dtype`.
    Raises UsageError for weights that `dtype` cannot hold.
    """
    merged = merge_branches(checkpoint.model)
    if dtype is torch.float32:
        return merged
    name, size = checkpoint.spec.name, checkpoint.spec.image_size
    model = (copy.deepcopy(merged) if merged is checkpoint.model else merged).requires_grad_(False)
    fold_batch_norms(model.visual, torch.zeros(2, 3, size, size), name)
    _check_range(model, dtype, name)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(_cast_inputs(torch.float32))
            module.register_forward_hook(_cast_output(dtype))
        else:
            _cast_own_tensors(module, dtype)
    model.visual.register_forward_pre_hook(_cast_inputs(dtype))
    return model


def _cast_own_tensors(module: nn.Module, dtype: torch.dtype) -> None:
    """Those of the module itself, so that a norm inside it keeps its fp32."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def _cast_inputs(dtype: torch.dtype) -> Any:
    return lambda _module, inputs: tuple(tensor.to(dtype) for tensor in inputs)


def _cast_output(dtype: torch.dtype) -> Any:
    return lambda _module, _inputs, output: output.to(dtype)


def _check_range(model: nn.Module, dtype: torch.dtype, name: str) -> None:
    largest = torch.finfo(dtype).max
    for parameter, tensor in model.named_parameters():
        if (value := float(tensor.abs().max())) > largest:
            raise UsageError(
                f"{name} does not fit into {dtype}: {parameter} holds {value:.3g}, the largest number is {largest:.3g}",
                remedy="export it with --precision fp32, or bf16 where the format has it",
            )


def keep_in_fp32(model: ir.Model) -> None:
    """Puts casts round each node of IN_FP32 whose input is of that half precision."""
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type in IN_FP32 else None
        if value is None or value.dtype is None or value.dtype not in IN_FP32[node.op_type]:
            continue
        half, result = value.dtype, node.outputs[0]
        entry = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{node.name}_in")
        entry.outputs[0].name, entry.outputs[0].shape = f"{result.name}_before", value.shape
        leave = ir.node("Cast", [result], {"to": half}, name=f"{node.name}_out")
        leave.outputs[0].name, leave.outputs[0].shape = f"{result.name}_half", result.shape
        for cast, dtype in ((entry, ir.DataType.FLOAT), (leave, half)):
            cast.outputs[0].dtype = dtype
        result.dtype = ir.DataType.FLOAT
        result.replace_all_uses_with(leave.outputs[0])
        leave.replace_input_with(0, result)
        node.replace_input_with(0, entry.outputs[0])
        model.graph.insert_before(node, entry)
        model.graph.insert_after(node, leave)
