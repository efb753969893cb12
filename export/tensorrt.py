"""The TensorRT builder: typed ONNX graphs to engines, by one code path for TensorRT 10.12 or later, 11 and RTX.

A network is strongly typed: precision is what the graph says. Only names that 10.16, 11.4 and TensorRT-RTX 1.7 share
are used; tests/export/test_tensorrt_members.py holds each against their member tables.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.core.cache import cache_folder
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import KdxError, SetupError, UsageError
from kdx.core.folders import write_atomic
from kdx.core.progress import Progress, silent
from kdx.core.scratch import scratch_folder
from kdx.runtime.cuda import Gpu, find_gpu, import_cuda
from kdx.runtime.tensorrt import RTX, TRT, Messages, import_tensorrt, make_logger
from kdx.runtime.trusted_plans import check_trusted, trust_plan

from .report import Check
from .tensorrt_plan import BuildPlan, Profile, default_plan

if TYPE_CHECKING:
    from .job import BuildJob

ENGINE = ".engine"
TOWERS = ("image_encoder", "text_encoder")


@dataclass(frozen=True)
class Engine:
    """A serialized engine, what TensorRT said while it was built, and the timing cache as it is now."""

    content: bytes
    messages: list[str]
    timings: bytes | None


def build_trt(job: BuildJob) -> dict[str, Any]:
    """The builder of the format trt."""
    return _build(job, TRT)


def build_trt_rtx(job: BuildJob) -> dict[str, Any]:
    """The builder of the format trt-rtx."""
    return _build(job, RTX)


def _build(job: BuildJob, format_name: str) -> dict[str, Any]:
    with scratch_folder() as graphs:
        made = typed_graphs(job, graphs)
        plan = default_plan(job.checkpoint.spec)
        return {**build_engines(format_name, graphs, job.folder, plan, job.progress), "graphs": made}


def typed_graphs(job: BuildJob, folder: Path) -> dict[str, Any]:
    """Writes the ONNX pair whose types and Q/DQ nodes say each engine's precision. Returns what its builder records."""
    from .half_precision import DTYPES  # with torch, which a deferred build has not
    from .onnx import build_int8, export_towers

    if job.precision == "int8":
        return build_int8(replace(job, folder=folder, target="trt"))
    export_towers(job.checkpoint, folder, DTYPES[job.precision])
    return {}


def build_engines(
    format_name: str, graphs: Path, folder: Path, plan: BuildPlan, progress: Progress = silent
) -> dict[str, Any]:
    """Writes image_encoder.engine and text_encoder.engine for the GPU of this machine, and trusts them from now on.

    graphs: the folder with image_encoder.onnx and text_encoder.onnx. Returns the options of the exported model.
    Raises UsageError for a graph that TensorRT does not take, SetupError for what the machine lacks.
    """
    trt, gpu = import_tensorrt(format_name), find_gpu(import_cuda())
    timings = _timing_cache_file(trt, gpu)
    said: dict[str, list[str]] = {}
    for number, tower in enumerate(TOWERS):
        progress(number, len(TOWERS), f"building {tower}")
        graph = graphs / f"{tower}.onnx"
        known = timings.read_bytes() if timings.exists() else b""
        profiles = plan.image if tower == TOWERS[0] else plan.text
        built = build_engine(trt, graph, profiles, plan, known if format_name == TRT else None)
        (folder / f"{tower}{ENGINE}").write_bytes(built.content)
        trust_plan(hashlib.sha256(built.content).hexdigest())
        if built.timings is not None:
            timings.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(timings, built.timings)
        said[tower] = built.messages
    return {
        "version": trt.__version__,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        **plan.to_dict(),
        "network_flags": ["STRONGLY_TYPED"],
        "timing_cache": hashlib.sha256(timings.read_bytes()).hexdigest() if timings.exists() else None,
        "messages": said,
    }


def build_engine(
    trt: Any, graph: Path, profiles: tuple[Profile, ...], plan: BuildPlan, timings: bytes | None
) -> Engine:
    """timings: a serialized timing cache, b"" for a new one, None for TensorRT-RTX, which keeps none.

    Everything is made anew for each attempt: a parser that failed once keeps failing.
    """
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    network, parser = parse(trt, builder, graph, messages, logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    if plan.hardware_compatibility != "NONE":  # TensorRT's own default; RTX warns when it is set
        level = getattr(trt.HardwareCompatibilityLevel, plan.hardware_compatibility)
        config.hardware_compatibility_level = level
    config.max_aux_streams = plan.auxiliary_streams
    for flag in plan.cleared_flags:
        config.clear_flag(getattr(trt.BuilderFlag, flag))
    for index, profile in enumerate(profiles):
        _add_profile(builder, network, config, profile, index, graph)
    cache = None if timings is None else _use_timings(config, timings)
    content = builder.build_serialized_network(network, config)
    del parser  # until here: the network's weights may lie in its memory
    if content is None:
        raise build_fault("does not build", graph, messages.reason())
    cache = config.get_timing_cache() if cache is not None else None
    return Engine(bytes(content), messages.lines, bytes(cache.serialize()) if cache is not None else None)


def parse(trt: Any, builder: Any, graph: Path, messages: Messages, logger: Any) -> tuple[Any, Any]:
    """The strongly typed network of an ONNX file, and its parser, which must live until the engine is built.

    Raises UsageError with the parser's words and the node.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons: list[str] = []
        for index in range(parser.num_errors):
            problem = parser.get_error(index)
            reasons.append(f"{problem.node_operator()} {problem.node_name()}: {problem.desc()}".strip())
        raise build_fault("is not taken by the parser", graph, reasons[0] if reasons else messages.reason())
    return network, parser


def parse_alone(trt: Any, graph: Path) -> None:
    """Raises UsageError for a graph that NVIDIA's parser does not take as a strongly typed network."""
    messages = Messages()
    logger = make_logger(trt, messages)
    parse(trt, trt.Builder(logger), graph, messages, logger)


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile, index: int, graph: Path) -> None:
    assert network.num_inputs == 1, "a tower has one input"
    tensor = network.get_input(0)
    if fault := profile.fault(tensor.name, tuple(tensor.shape)):
        raise UsageError(f"profile {index} {fault}", where=graph.name, remedy="make the export again")
    optimization = builder.create_optimization_profile()
    optimization.set_shape(profile.tensor, profile.least, profile.usual, profile.largest)
    if config.add_optimization_profile(optimization) != index:
        raise UsageError(
            f"TensorRT refuses profile {index}: {profile}", where=graph.name, remedy="make the export again"
        )


def _use_timings(config: Any, timings: bytes) -> Any:
    """The timing cache in use, which must outlive the build: the one given, or a new one if it is another device's."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def build_fault(what: str, graph: Path, reason: str) -> KdxError:
    """SetupError where TensorRT's words are about memory or CUDA, else UsageError: the architecture's fault."""
    said = f"{what}: {' '.join(reason.split())[:300]}"
    if any(word in said.lower() for word in ("memory", "cuda")):
        return SetupError(
            said, where=graph.name, remedy="free the GPU's memory; `nvidia-smi` says what uses it"
        )
    return UsageError(
        said, where=graph.name, remedy="export to another format, or choose another architecture"
    )


def _timing_cache_file(trt: Any, gpu: Gpu) -> Path:
    """By version and GPU: what TensorRT measured there, so that a second build is faster and chooses alike."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{trt.__name__}-{trt.__version__}-{gpu.name}")
    return cache_folder() / "timings" / name


def check_engines(folder: Path, spec: EncoderSpec, precision: str) -> list[Check]:
    """The gate's first tier: what can be said of engines without loading them."""
    return [
        Check.holds(f"{tower} was built here", _untrusted(folder / f"{tower}{ENGINE}")) for tower in TOWERS
    ]


def _untrusted(path: Path) -> str:
    if not path.is_file():
        return "there is no such file"
    try:
        check_trusted(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    except KdxError as error:
        return error.what
    return ""
