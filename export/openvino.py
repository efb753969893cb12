"""The OpenVINO builder: the ONNX graphs, and in which arithmetic OpenVINO is to run them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdx.core.encoder import EncoderSpec
from kdx.runtime.openvino import INFERENCE_PRECISION

from .job import BuildJob
from .onnx import build_onnx
from .report import Check
from .structure import check_onnx

# bf16 is OpenVINO's own: it casts the fp32 graph when it compiles, as far as it has kernels
STORED = {"fp32": "fp32", "bf16": "fp32"}  # precision of the files by that of the exported model


def build_openvino(job: BuildJob) -> dict[str, Any]:
    """The builder of the format openvino."""
    build_onnx(replace(job, precision=STORED[job.precision]))
    return {"inference_precision": INFERENCE_PRECISION[job.precision]}


def check_openvino(folder: Path, spec: EncoderSpec, precision: str) -> list[Check]:
    """Checks both graphs against the contract of docs/formats.md."""
    return check_onnx(folder, spec, STORED[precision])
