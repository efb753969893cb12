"""The ONNX builder: two graphs of one portable kind, traced from the checkpoint itself.

Opset 20, free batch and text length, fp32 borders, normalized outputs. The weights stand inside the file, or, above
FILE_LIMIT, in one data file beside it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

import kdx
from kdx.core.encoder import MIN_LENGTH, EncoderSpec
from kdx.core.errors import UsageError
from kdx.core.provenance import package_versions
from kdx.core.scratch import scratch_folder
from kdx.models.architectures import Architecture, build_model
from kdx.models.checkpoint import Checkpoint
from kdx.models.clip import ClipModel
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS

from .half_precision import DTYPES, cast_towers, keep_in_fp32
from .job import BuildJob
from .quantization import quantize_towers
from .session_trial import find_disabled_optimizers

OPSET = 20  # 23's Attention nodes are no faster in ONNX Runtime, and TensorRT-RTX 1.7 fails to build them
TOWERS = ("image_encoder", "text_encoder")
BATCH, LENGTH = "batch", "length"
EXAMPLE_BATCH = 5  # with 1 the exporter specialises ViTs to it and still declares a free axis
# bytes of weights; a protobuf file ends at 2 GiB, and the graph needs some of that
FILE_LIMIT = 2**31 - 2**24
DATA_SUFFIX = ".data"  # of the file with the weights, after the whole name of the graph's
SMALL_TENSOR = 1024  # bytes; shapes and scales stay in the graph, where its checker reads them


class ImageTower(nn.Module):
    """pixels float32 [B, 3, S, S] → image_features float32 [B, D], unit rows."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1)


class TextTower(nn.Module):
    """tokens int32 [B, L] → text_features float32 [B, D], unit rows."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)


def build_onnx(job: BuildJob) -> dict[str, Any]:
    """The builder of the format onnx."""
    if job.precision == "int8":
        return build_int8(job)
    export_towers(job.checkpoint, job.folder, DTYPES[job.precision])
    return {} if job.precision == "fp32" else session_options(job.folder)


def session_options(folder: Path) -> dict[str, Any]:
    """What OnnxEncoder must know of the files in `folder`: for each tower the optimizers that it does not bear."""
    found = {tower: find_disabled_optimizers(folder / f"{tower}.onnx") for tower in TOWERS}
    disabled = {tower: names for tower, names in found.items() if names}
    return {"disabled_optimizers": disabled} if disabled else {}


def build_int8(job: BuildJob) -> dict[str, Any]:
    """The towers in fp32, and from these the quantised ones. The options tell what was chosen and measured."""
    if job.calibration is None:
        raise UsageError("int8 needs calibration samples", remedy="give some of the train split")
    with scratch_folder() as folder:
        export_towers(job.checkpoint, folder)
        record = quantize_towers(
            folder,
            job.folder,
            spec=job.checkpoint.spec,
            tokenizer=job.checkpoint.tokenizer,
            calibration=job.calibration,
            target=job.target,
        )
    return {"int8": record}


def export_towers(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes image_encoder.onnx and text_encoder.onnx, whose weights and arithmetic are of `dtype`.

    Inputs and outputs are the same for each dtype (docs/formats.md). float32 and float16 run in ONNX Runtime; bfloat16
    is for TensorRT's parser. Raises UsageError for a model that does not export, or does not fit into `dtype`.
    """
    model, spec = cast_towers(checkpoint, dtype), checkpoint.spec
    image, text = (folder / f"{tower}.onnx" for tower in TOWERS)
    _write(_trace_image_tower(model, spec.image_size, spec.name), image, spec)
    _write(_trace_text_tower(model, spec), text, spec)


def trace_tower(checkpoint: Checkpoint, tower: str, dtype: torch.dtype) -> torch.onnx.ONNXProgram:
    """The graph of a tower, "image" or "text", with the exporter's notes on which module each node is from.

    Raises UsageError when it does not export.
    """
    model, spec = cast_towers(checkpoint, dtype), checkpoint.spec
    if tower == "image":
        return _trace_image_tower(model, spec.image_size, spec.name)
    return _trace_text_tower(model, spec)


def check_exports(architecture: Architecture) -> None:
    """Raises UsageError, with the reason, for an architecture that `kdx export` would refuse.

    Call before training. Takes seconds and no memory for weights: the image tower is traced and translated with
    tensors that have a shape but no data. All kinds of text towers export (tests/export/test_every_model.py).
    """
    model, size = _without_data(architecture), architecture.vision_cfg.image_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        _trace_image_tower(model, size, architecture.name, optimize=False)


def _without_data(architecture: Architecture) -> ClipModel:
    """The model with weights that claim to lie on the CPU but hold nothing.

    Not on torch's meta device, where attention has other strides than on the CPU and other graphs export.
    """
    with torch.device("meta"):
        model = build_model(architecture)
    made: dict[Tensor, Any] = {}  # modules may share a tensor
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        made[tensor] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
                    tensors[name] = None if tensor is None else made[tensor]
    return model


def _trace_image_tower(
    model: ClipModel, size: int, name: str, *, optimize: bool = True
) -> torch.onnx.ONNXProgram:
    pixels = torch.zeros(EXAMPLE_BATCH, 3, size, size)
    axes = {PIXELS: {0: Dim(BATCH, min=1)}}
    return _trace(ImageTower(model), pixels, axes, IMAGE_FEATURES, name, optimize=optimize)


def _trace_text_tower(model: ClipModel, spec: EncoderSpec) -> torch.onnx.ONNXProgram:
    axes = {TOKENS: text_axes(spec, Dim(BATCH, min=1))}
    return _trace(TextTower(model), example_tokens(spec), axes, TEXT_FEATURES, spec.name)


def text_axes(spec: EncoderSpec, batch: Any) -> dict[int, Any]:
    """The free axes of the tokens, by number. batch: the Dim of the first."""
    if not spec.has_free_length:
        return {0: batch}
    return {0: batch, 1: Dim(LENGTH, min=spec.min_length, max=spec.context_length)}


def example_tokens(spec: EncoderSpec) -> Tensor:
    """int32 [5, L]; a free L is unlike batch, context and embedding width, so that no axis is taken for another."""
    if not spec.has_free_length:
        tokens = torch.ones(EXAMPLE_BATCH, spec.context_length, dtype=torch.int32)
        tokens[:, -1] = spec.vocab_size - 1
        return tokens
    taken = {EXAMPLE_BATCH, spec.context_length, spec.embed_dim, 1}
    length = next(n for n in range(max(MIN_LENGTH, spec.context_length // 2), 0, -1) if n not in taken)
    tokens = torch.ones(EXAMPLE_BATCH, length, dtype=torch.int32)
    tokens[:, -1] = spec.vocab_size - 1
    return tokens


def _trace(
    tower: nn.Module,
    example: Tensor,
    axes: dict[str, dict[int, Any]],
    output: str,
    name: str,
    *,
    optimize: bool = True,
) -> torch.onnx.ONNXProgram:
    """The tower as ONNX. axes: named Dims by input; an axis that cannot be free is an error, not a guess."""
    tower.eval()
    with quiet(), plain_attention(tower):
        try:
            program = torch.onnx.export(
                tower,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(axes),
                output_names=[output],
                dynamic_shapes=axes,
                external_data=False,
                optimize=optimize,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UsageError(
                f"{name} does not export to ONNX: {reason[:200]}",
                where=output,
                remedy="choose another architecture",
            ) from error
    assert program is not None
    return program


@contextlib.contextmanager
def plain_attention(tower: nn.Module) -> Iterator[None]:
    """timm's attention written out as products and a softmax, as its modules offer it.

    The exporter cannot translate the fused operator of five axes (Hiera), and breaks on its strides (MaxViT).
    """
    fused: list[Any] = [module for module in tower.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.onnx prints to stdout, warns of its own deprecations and logs; what fails raises as well."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write(program: torch.onnx.ONNXProgram, path: Path, spec: EncoderSpec) -> None:
    """Weights above FILE_LIMIT go to the data file tensor by tensor, so that no second copy of them is in memory."""
    model = program.model
    keep_in_fp32(model)
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    if weights > FILE_LIMIT:
        data = path.name + DATA_SUFFIX
        model = onnx_ir.external_data.unload_from_model(
            model, path.parent, data, size_threshold_bytes=SMALL_TENSOR
        )
    proto = onnx_ir.to_proto(model)
    proto.doc_string = ""
    strip_metadata(proto)
    onnx.helper.set_model_props(proto, _provenance(spec))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Removes what the exporter notes on each node and value: stack traces with paths of this machine."""
    for part in parts(proto):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.doc_string = ""


def parts(proto: onnx.ModelProto) -> Iterator[Any]:
    """All that can carry notes below the model itself: graphs, nodes, values, weights, functions, branches."""
    for graph in (proto.graph, *proto.functions):
        yield from _parts_of(graph)


def _parts_of(graph: Any) -> Iterator[Any]:
    yield graph
    yield from graph.value_info
    if isinstance(graph, onnx.GraphProto):
        yield from (*graph.input, *graph.output, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield attribute
            for branch in (attribute.g, *attribute.graphs):
                if branch.node:
                    yield from _parts_of(branch)


def _provenance(spec: EncoderSpec) -> dict[str, str]:
    packages = package_versions()
    return {
        "kdx.version": kdx.__version__,
        "kdx.name": spec.name,
        "kdx.model_digest": spec.model_digest,
        "kdx.preprocess_digest": spec.preprocess_digest,
        "kdx.tokenizer_digest": spec.tokenizer_digest,
        "kdx.opset": str(OPSET),
        **{f"kdx.{name}": packages[name] for name in ("torch", "onnx", "onnxscript")},
    }
