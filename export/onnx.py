"""The ONNX builder: two graphs of one portable kind, traced from the checkpoint itself.

Opset 20, free batch and text length, fp32, normalized outputs, weights inside the file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import kdx
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import UsageError
from kdx.core.provenance import package_versions
from kdx.models.checkpoint import Checkpoint
from kdx.models.clip import ClipModel
from kdx.runtime.onnx import IMAGE_FEATURES, MIN_LENGTH, PIXELS, TEXT_FEATURES, TOKENS

OPSET = 20  # 23's Attention nodes are no faster in ONNX Runtime, and TensorRT-RTX 1.7 fails to build them
BATCH, LENGTH = "batch", "length"
EXAMPLE_BATCH = 5  # with 1 the exporter specialises ViTs to it and still declares a free axis
FILE_LIMIT = 2**31 - 2**24  # a protobuf file ends at 2 GiB; the graph beside the weights needs some of that


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


def export_image_encoder(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the image tower. Raises UsageError when it does not export."""
    size = checkpoint.spec.image_size
    pixels = torch.zeros(EXAMPLE_BATCH, 3, size, size)
    axes = {PIXELS: {0: Dim(BATCH, min=1)}}
    proto = _trace(ImageTower(checkpoint.model), pixels, axes, IMAGE_FEATURES, checkpoint.spec)
    _write(proto, path, checkpoint.spec)


def export_text_encoder(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the text tower. Raises UsageError when it does not export."""
    spec = checkpoint.spec
    tokens = torch.from_numpy(_example_tokens(spec))
    axes = {TOKENS: {0: Dim(BATCH, min=1), 1: Dim(LENGTH, min=MIN_LENGTH, max=spec.context_length)}}
    proto = _trace(TextTower(checkpoint.model), tokens, axes, TEXT_FEATURES, spec)
    _write(proto, path, spec)


def _example_tokens(spec: EncoderSpec) -> np.ndarray[Any, np.dtype[np.int32]]:
    """[5, L] with L unlike the batch, the context and the embedding width, so that no axis is taken for another."""
    taken = {EXAMPLE_BATCH, spec.context_length, spec.embed_dim, 1}
    length = next(n for n in range(max(MIN_LENGTH, spec.context_length // 2), 0, -1) if n not in taken)
    tokens = np.full((EXAMPLE_BATCH, length), 1, dtype=np.int32)
    tokens[:, -1] = spec.vocab_size - 1
    return tokens


def _trace(
    tower: nn.Module, example: Tensor, axes: dict[str, dict[int, Any]], output: str, spec: EncoderSpec
) -> onnx.ModelProto:
    """The tower as ONNX. axes: named Dims by input; an axis that cannot be free is an error, not a guess."""
    tower.eval()
    with _quiet():
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
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UsageError(
                f"{spec.name} does not export to ONNX: {reason}",
                where=output,
                remedy="choose another architecture",
            ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Any:
    """torch.onnx prints to stdout, warns of its own deprecations and logs; what fails raises as well."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write(proto: onnx.ModelProto, path: Path, spec: EncoderSpec) -> None:
    strip_metadata(proto)
    onnx.helper.set_model_props(proto, _provenance(spec))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Removes what the exporter notes on each node and value: stack traces with paths of this machine."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    proto.doc_string = ""


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
