"""The formats of an exported model: one record each, which the gate, `kdx.load`, serving and bench ask.

A record imports nothing: it names its parts as `module:attribute`, which are imported when they are used. So this table
is read in a server without torch, and `kdx.load` pays for one runtime only. A package outside kdx adds a format by an
entry point of the group `kdx.formats` that leads to its record.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.core.encoder import Encoder, EncoderSpec
from kdx.core.errors import UsageError
from kdx.core.spelling import nearest

if TYPE_CHECKING:
    from .exported_model import ExportedModel

GROUP = "kdx.formats"  # of entry points


@dataclass(frozen=True)
class Limits:
    """What an exported model may differ by from PyTorch in fp32.

    max_abs: of a component of a unit vector; None where rounding is meant to move them and angles decide alone.
    cosine_distance: of any one embedding from its reference. centred_cosine_distance: the median of it, after both
    lost the reference's mean: where all embeddings share a direction, a plain cosine passes a dead model; None where
    max_abs sees that. norm:
    deviation of a row's norm from 1. invariance: of a component, when a row's neighbours or its padding change. tie:
    the reference's preference, as a difference of cosines, below which another choice is rounding and no decision.
    margin: share of decisions that may differ, to be shown with 95 % confidence; 1 point needs 299 samples without a
    difference.
    """

    max_abs: float | None
    cosine_distance: float
    centred_cosine_distance: float | None
    norm: float
    invariance: float
    tie: float
    margin: float = 0.01


# The gate's limits by precision, each beside the measurement that set it. "Small models" are kdx-mini students trained
# by the demo, on 1,000 held-out images and captions; their mean pairwise cosine is 0.50 to 0.64.
LIMITS = {
    # max abs 1e-7 to 2.4e-7 was seen for eleven trunks in ONNX Runtime
    "fp32": Limits(1e-5, 1e-6, None, norm=1e-5, invariance=1e-5, tie=1e-5),
    # docs/benchmarks/half-precision.md: cosine distances up to 1.9e-5 and components up to 1.4e-3 for the worst of four
    # trained trunks in PyTorch's own fp16; at most 1.3e-6 for eleven architectures with random weights
    "fp16": Limits(None, 1e-4, 1e-3, norm=1e-3, invariance=5e-3, tie=1e-3),
    # the same: up to 1.1e-3 and 1.4e-2 for the trained MobileNetV3-L and EfficientNet-B0 (half of the images below
    # 3e-5), at most 9.8e-5 with random weights. OpenVINO, small models: centred medians up to 6.4e-5; of 1,000 choices
    # among 1,000 texts 18 to 34 differ, at most 2 by more than 0.002, none by more than 0.005
    "bf16": Limits(None, 3e-3, 5e-3, norm=1e-3, invariance=3e-2, tie=5e-3),
    # static scales in ONNX Runtime, four trunks trained on CIFAR-10, 2,000 test images: the worst cosine distance of
    # one image 0.11 for EfficientNet-B0 and 0.005 for ResNet-18, centred medians up to 0.003; up to 12 % of choices
    # differ, nearly all where fp32 prefers its own by less than 0.02, so that accuracy falls by 0.3 points at most.
    # Small models: at most 3 of 1,000 by more than 0.02. A row's neighbours changed nothing; with dynamic scales, which
    # take their range from the batch, they move components by 3e-3 to 6e-3
    "int8": Limits(None, 0.15, 1e-2, norm=1e-3, invariance=1e-3, tie=2e-2, margin=0.05),
}


def find_limits(precision: str) -> Limits:
    """The table's. Raises UsageError for a precision that it lacks."""
    if precision not in LIMITS:
        raise UsageError(f"there is no precision {precision!r}", remedy=f"choose from {', '.join(LIMITS)}")
    return LIMITS[precision]


@dataclass(frozen=True)
class Format:
    """One format. All parts are named as `module:attribute`.

    suffix: of the files image_encoder and text_encoder. precisions: with the gate's limits, the default first.
    targets: what the file is made to run on, the default first. packages: the distributions that its runtime needs
    beside kdx's own.

    builder: `(BuildJob) -> options`, writes both encoders into the job's folder; the options are what the opener must
    know beside the files, as JSON. opener: `(ExportedModel, num_threads=…) -> Encoder`. structure: `(folder, spec,
    precision) -> list[Check]`, what the files declare, without running them. machine: `(precision, target) -> None`,
    raises SetupError for what this machine lacks to build and run them.
    """

    name: str
    suffix: str
    precisions: Mapping[str, Limits]
    targets: tuple[str, ...]
    builder: str
    opener: str
    structure: str
    machine: str
    packages: tuple[str, ...]

    def build(self, job: Any) -> dict[str, Any]:
        """Writes the encoders of a kdx.export.job.BuildJob and returns the options."""
        return pkgutil.resolve_name(self.builder)(job)

    def open(self, model: ExportedModel, *, num_threads: int | None = None) -> Encoder:
        """num_threads: of one call, by default one for each core that this process may use."""
        return pkgutil.resolve_name(self.opener)(model, num_threads=num_threads)

    def check_structure(self, folder: Path, spec: EncoderSpec, precision: str) -> list[Any]:
        """The checks (kdx.export.report.Check) of the gate's first tier."""
        return pkgutil.resolve_name(self.structure)(folder, spec, precision)

    def check_machine(self, precision: str, target: str) -> None:
        """Raises SetupError if this machine cannot build or run it. Call before long work."""
        pkgutil.resolve_name(self.machine)(precision, target)


BUILT_IN = (
    Format(
        name="onnx",
        suffix=".onnx",
        precisions={name: LIMITS[name] for name in ("fp32", "fp16", "int8")},
        targets=("cpu", "trt"),
        builder="kdx.export.onnx:build_onnx",
        opener="kdx.runtime.onnx:OnnxEncoder",
        structure="kdx.export.structure:check_onnx",
        machine="kdx.runtime.onnx:check_machine",
        packages=("onnxruntime",),
    ),
    Format(
        name="openvino",
        suffix=".onnx",
        precisions={name: LIMITS[name] for name in ("fp32", "bf16")},
        targets=("cpu",),
        builder="kdx.export.openvino:build_openvino",
        opener="kdx.runtime.openvino:OpenVinoEncoder",
        structure="kdx.export.openvino:check_openvino",
        machine="kdx.runtime.openvino:check_machine",
        packages=("openvino",),
    ),
    Format(
        name="pt2",
        suffix=".pt2",
        precisions={name: LIMITS[name] for name in ("fp32", "fp16", "bf16")},
        targets=("native",),  # the GPU of the machine that exports it, or without one its CPU
        builder="kdx.export.pt2:build_pt2",
        opener="kdx.runtime.pt2:Pt2Encoder",
        structure="kdx.export.pt2:check_pt2",
        machine="kdx.runtime.pt2:check_machine",
        packages=("torch",),
    ),
    Format(
        name="trt",
        suffix=".engine",
        precisions={name: LIMITS[name] for name in ("fp32", "fp16", "bf16", "int8")},
        targets=("trt",),
        builder="kdx.export.tensorrt:build_trt",
        opener="kdx.runtime.tensorrt:TensorRTEncoder",
        structure="kdx.export.tensorrt:check_engines",
        machine="kdx.runtime.tensorrt:check_machine",
        packages=("cuda-bindings",),  # and TensorRT itself, which has no one name
    ),
    Format(
        name="trt-rtx",
        suffix=".engine",
        precisions={name: LIMITS[name] for name in ("fp32", "fp16", "bf16", "int8")},
        targets=("trt",),
        builder="kdx.export.tensorrt:build_trt_rtx",
        opener="kdx.runtime.tensorrt:TensorRTEncoder",
        structure="kdx.export.tensorrt:check_engines",
        machine="kdx.runtime.tensorrt:check_rtx_machine",
        packages=("tensorrt-rtx-cu13", "cuda-bindings"),
    ),
)


def format_names() -> list[str]:
    """All that can be given to --format."""
    return [format_.name for format_ in BUILT_IN] + sorted(entry.name for entry in _entry_points())


def find_format(name: str) -> Format:
    """Raises UsageError for a format that neither kdx nor an installed package has."""
    for format_ in BUILT_IN:
        if format_.name == name:
            return format_
    for entry in _entry_points():
        if entry.name == name:
            return entry.load()
    known = format_names()
    meant = nearest(name, known)
    raise UsageError(
        f"there is no format {name!r}",
        remedy=f"did you mean {meant}? " * bool(meant) + f"known formats: {', '.join(known)}",
    )


def choose(
    name: str, precision: str | None, target: str | None, *, here: bool = True
) -> tuple[Format, str, str]:
    """The format with the precision and target asked for, by default its first. Call before long work.

    here: whether this machine is to build and run it. Raises UsageError for what there is not, SetupError for what this
    machine lacks.
    """
    format_ = find_format(name)
    precision, target = precision or next(iter(format_.precisions)), target or format_.targets[0]
    if precision not in format_.precisions:
        raise UsageError(
            f"{name} has no precision {precision!r}", remedy=f"it has {', '.join(format_.precisions)}"
        )
    if target not in format_.targets:
        raise UsageError(f"{name} has no target {target!r}", remedy=f"it has {', '.join(format_.targets)}")
    if here:
        format_.check_machine(precision, target)
    return format_, precision, target


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=GROUP)
