"""The TensorRT form of an Encoder: two engines of an ExportedModel on an NVIDIA GPU, without torch.

TensorRT 10.12 or later and 11 (the format `trt`) and TensorRT-RTX (`trt-rtx`) share one API. For each bucket, that is a
batch and text length up to which requests are padded, there is one execution context whose shape and addresses never
change, with its CUDA graph: NVIDIA asks for one context for each captured graph. The contexts of a tower share their
memory, its stream and its pinned buffers, so one lock guards a tower, and the towers run side by side.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError, KdxError, SetupError, UsageError

from .cuda import DeviceMemory, Gpu, PinnedMemory, Stream, checked, find_gpu, import_cuda
from .exported_encoder import (
    IMAGE_FEATURES,
    PIXELS,
    TEXT_FEATURES,
    TOKENS,
    ExportedEncoder,
    Graph,
)
from .exported_model import ExportedModel
from .trusted_plans import check_trusted

log = logging.getLogger(__name__)

TRT, RTX = "trt", "trt-rtx"
MODULE = {TRT: "tensorrt", RTX: "tensorrt_rtx"}
OLDEST = {TRT: (10, 12), RTX: (1, 4)}  # strongly typed networks by the names that 11 still has
INSTALL = {
    TRT: "use a container of NVIDIA with TensorRT 10.12 or later, or pip install tensorrt-cu13 from an index that has "
    "NVIDIA's tensorrt-cu13-libs (pypi.nvidia.com)",
    RTX: "pip install 'kdx[trt-rtx]'",
}
DEFER = "to build on another machine: add --defer here, and run kdx export --finish there"
AGAIN = "build it again from its deferred export: kdx export --finish DEFERRED --out DIR"
SHORTEST = 8  # tokens; below it one bucket does: a start, an end and a word or two
BF16_SINCE = (8, 0)  # compute capability of Ampere


@dataclass(frozen=True)
class Tensors:
    """The names of a tower's input and output, and the input's dtype."""

    input: str
    output: str
    dtype: type[np.float32] | type[np.int32]


IMAGE = Tensors(PIXELS, IMAGE_FEATURES, np.float32)
TEXT = Tensors(TOKENS, TEXT_FEATURES, np.int32)


def check_machine(precision: str, target: str) -> None:
    """Raises SetupError for what building and running a `trt` export lacks here, and offers --defer."""
    _check_machine(TRT, precision)


def check_rtx_machine(precision: str, target: str) -> None:
    """Raises SetupError for what building and running a `trt-rtx` export lacks here, and offers --defer."""
    _check_machine(RTX, precision)


def _check_machine(format_name: str, precision: str) -> None:
    try:
        trt = import_tensorrt(format_name)
        check_gpu(trt, format_name, find_gpu(import_cuda()), precision)
    except SetupError as error:
        raise SetupError(error.what, where=error.where, remedy=f"{error.remedy}; {DEFER}") from None


def check_gpu(trt: Any, format_name: str, gpu: Gpu, precision: str) -> None:
    """Raises SetupError for a GPU that this precision or TensorRT-RTX does not run on."""
    capability = tuple(int(part) for part in gpu.compute_capability.split("."))
    if precision == "bf16" and capability < BF16_SINCE:
        raise SetupError(
            f"the {gpu.name} (compute capability {gpu.compute_capability}) has no bf16",
            remedy="export fp16, or use a GPU of compute capability 8.0 or later",
        )
    if format_name == RTX and "SM{}{}".format(*capability) not in trt.ComputeCapability.__members__:
        raise SetupError(
            f"TensorRT-RTX {trt.__version__} does not run on the {gpu.name} "
            f"(compute capability {gpu.compute_capability})",
            remedy="use --format trt on this GPU",
        )


def import_tensorrt(format_name: str) -> Any:
    """tensorrt or tensorrt_rtx. Raises SetupError if it is missing, does not load or is too old."""
    module = MODULE[format_name]
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError) as error:  # bindings without libnvinfer raise either
        raise SetupError(f"{module} does not import: {error}", remedy=INSTALL[format_name]) from None
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    if (major, minor) < OLDEST[format_name]:
        oldest = ".".join(map(str, OLDEST[format_name]))
        raise SetupError(
            f"{module} {trt.__version__} is older than {oldest}, the first that kdx builds with",
            remedy=INSTALL[format_name],
        )
    return trt


class Messages:
    """What TensorRT said while it built or loaded: lines of at least WARNING, in order, each once.

    TensorRT raises nothing: it answers False or None, and says why through its logger alone.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []

    def note(self, severity: str, text: str) -> None:
        line = " ".join(text.split())
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(line)
        if severity in ("INTERNAL_ERROR", "ERROR", "WARNING") and f"{severity}: {line}" not in self.lines:
            self.lines.append(f"{severity}: {line}")

    def reason(self) -> str:
        """The first error, since later ones follow from it."""
        return self.errors[0][:300] if self.errors else "TensorRT gives no reason"


def make_logger(trt: Any, messages: Messages) -> Any:
    """An ILogger that hands everything to `messages`. It must live as long as what was made with it."""

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind needs it by name

        def log(self, severity: Any, msg: str) -> None:
            messages.note(severity.name, msg)

    return Collector()


class TensorRTEncoder(ExportedEncoder):
    """Runs an exported model of format `trt` or `trt-rtx`. A tower's engine is loaded on its first use.

    num_threads is the other formats'; a call on a GPU takes none. Several threads may share the encoder; calls of one
    tower wait for each other.

    Raises UsageError for pixels and tokens that are not what `spec` says; DataError for a plan that was not built
    here or does not load; SetupError when TensorRT, a GPU or memory is missing, or when the plan was built with another
    version or for another GPU.
    """

    def __init__(self, model: ExportedModel, *, num_threads: int | None = None) -> None:
        super().__init__(model, num_threads)
        self._trt = import_tensorrt(model.format.name)
        self._cudart = import_cuda()
        _check_built_here(self._trt, find_gpu(self._cudart), model)
        self._towers: dict[Graph, Tower] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for tower in self._towers.values():
                tower.close()
            self._towers.clear()

    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        with self._lock:
            tower = self._towers.get(graph)
            if tower is None:
                tensors, filling = (IMAGE, 0) if graph == self._image else (TEXT, self.spec.pad_id)
                tower = Tower(self._trt, self._cudart, graph.path, tensors, self.spec.embed_dim, filling)
                self._towers[graph] = tower
        return tower.run(batch)


def _check_built_here(trt: Any, gpu: Gpu, model: ExportedModel) -> None:
    """Raises SetupError for another version or, except with TensorRT-RTX, another GPU than the plan's."""
    built = model.options
    try:
        version, name, capability = built["version"], built["gpu"], built["compute_capability"]
        compatible = built["hardware_compatibility"]
    except KeyError as error:
        raise DataError(f"its options lack the key {error}", where=model.path, remedy=AGAIN) from None
    if version != trt.__version__:
        raise SetupError(
            f"was built with {MODULE[model.format.name]} {version}, and here is {trt.__version__}",
            where=model.path,
            remedy=AGAIN,
        )
    if model.format.name == RTX:  # its kernels are compiled when the engine is loaded
        check_gpu(trt, RTX, gpu, model.precision)
        return
    same_gpu = (name, capability) == (gpu.name, gpu.compute_capability)
    if not (same_gpu or (compatible == "SAME_COMPUTE_CAPABILITY" and capability == gpu.compute_capability)):
        raise SetupError(
            f"was built for the {name} (compute capability {capability}), and here is the {gpu.name} "
            f"(compute capability {gpu.compute_capability})",
            where=model.path,
            remedy=AGAIN,
        )


@dataclass
class Bucket:
    """One context with a fixed shape, and its captured graph, None where the runtime takes care of graphs itself."""

    context: Any
    shape: tuple[int, ...]
    graph: Any = None


class Tower:
    """One engine: its profiles, buckets and buffers."""

    def __init__(
        self, trt: Any, cudart: Any, path: Path, tensors: Tensors, embed_dim: int, filling: int
    ) -> None:
        """filling: what a request is padded with to its bucket."""
        self._trt, self._cudart, self._path = trt, cudart, path
        self._tensors, self._embed_dim, self._filling = tensors, embed_dim, filling
        self._messages = Messages()
        self._logger = make_logger(trt, self._messages)
        self._engine = self._load()
        self._profiles = self._read_profiles()
        self._buckets: dict[tuple[int, tuple[int, ...]], Bucket] = {}
        self._lock = threading.Lock()
        self._held: list[Stream | DeviceMemory | PinnedMemory] = []
        try:
            self._allocate()
        except BaseException:
            self.close()
            raise

    def run(self, batch: npt.NDArray[Any]) -> FloatArray:
        """batch: [B ≥ 1, …], of any size; what exceeds the profile's maximum runs in pieces. Returns [B, D]."""
        with self._lock:
            if not self._held:
                raise UsageError("the encoder was closed while it was asked", remedy="close it afterwards")
            profile, width = self._choose_profile(batch.shape[1:])
            most = self._profiles[profile][1][0]
            pieces = [
                self._run_piece(profile, width, batch[start : start + most])
                for start in range(0, len(batch), most)
            ]
        return np.concatenate(pieces)

    def close(self) -> None:
        with self._lock:
            for bucket in self._buckets.values():
                if bucket.graph is not None:
                    self._cudart.cudaGraphExecDestroy(bucket.graph)
            self._buckets.clear()
            for held in reversed(self._held):
                held.close()
            self._held.clear()

    # Loading

    def _load(self) -> Any:
        content = self._path.read_bytes()
        check_trusted(hashlib.sha256(content).hexdigest(), self._path)  # of the bytes that are loaded next
        runtime = self._trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._fault("does not load")
        self._runtime = runtime  # the engine needs it
        found = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        if sorted(found) != sorted([self._tensors.input, self._tensors.output]):
            expected = f"{self._tensors.input} → {self._tensors.output}"
            raise DataError(f"has the tensors {found} instead of {expected}", where=self._path, remedy=AGAIN)
        return engine

    def _read_profiles(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The least and the largest shape of the input by profile, narrowest first as they were built."""
        engine, name = self._engine, self._tensors.input
        profiles: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for index in range(engine.num_optimization_profiles):
            least, _, largest = engine.get_tensor_profile_shape(name, index)
            profiles.append((tuple(least), tuple(largest)))
        return profiles

    def _allocate(self) -> None:
        engine, cudart = self._engine, self._cudart
        inputs = max(int(np.prod(largest)) for _, largest in self._profiles) * 4
        outputs = max(largest[0] for _, largest in self._profiles) * self._embed_dim * 4
        self._stream = self._hold(Stream(cudart))
        self._scratch_size = int(engine.device_memory_size_v2)
        self._scratch = self._hold(DeviceMemory(cudart, self._scratch_size))
        self._device_input = self._hold(DeviceMemory(cudart, inputs))
        self._device_output = self._hold(DeviceMemory(cudart, outputs))
        self._host_input = self._hold(PinnedMemory(cudart, inputs))
        self._host_output = self._hold(PinnedMemory(cudart, outputs))

    def _hold(self, held: Any) -> Any:
        self._held.append(held)
        return held

    # Running

    def _choose_profile(self, row: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """The first profile that admits a row of this shape, and the row's shape in it: a text's length grows to
        its bucket, which is free, since no padding reaches what a tower of free length reads."""
        for index, (least, largest) in enumerate(self._profiles):
            if len(row) != 1:
                return index, row
            length = min(largest[1], max(least[1], SHORTEST, _power_of_two(row[0])))
            if row[0] <= length:
                return index, (length,)
        raise DataError(
            f"has no profile for {self._tensors.input} of {list(row)}", where=self._path, remedy=AGAIN
        )

    def _run_piece(self, profile: int, width: tuple[int, ...], batch: npt.NDArray[Any]) -> FloatArray:
        least, largest = self._profiles[profile]
        rows = min(largest[0], max(least[0], _power_of_two(len(batch))))
        shape = (rows, *width)
        padded = self._host_input.array(shape, self._tensors.dtype)
        padded[...] = self._filling
        padded[tuple(slice(size) for size in batch.shape)] = batch
        bucket = self._buckets.get((profile, shape)) or self._make_bucket(profile, shape)
        if bucket.graph is not None:
            checked(self._cudart, self._cudart.cudaGraphLaunch(bucket.graph, self._stream.handle))
        else:
            self._enqueue(bucket)
        self._stream.synchronize()
        answered = self._host_output.array((rows, self._embed_dim), np.float32)
        return answered[: len(batch)].copy()

    def _make_bucket(self, profile: int, shape: tuple[int, ...]) -> Bucket:
        context = self._make_context()
        if context is None:
            raise self._fault("makes no execution context")
        context.set_device_memory(self._scratch.address, self._scratch_size)
        done = context.set_optimization_profile_async(profile, self._stream.handle)
        self._stream.synchronize()
        done = done and context.set_input_shape(self._tensors.input, shape)
        done = done and context.set_tensor_address(self._tensors.input, self._device_input.address)
        done = done and context.set_tensor_address(self._tensors.output, self._device_output.address)
        if not done or context.infer_shapes():
            raise self._fault(f"does not take {self._tensors.input} {list(shape)}")
        answered = tuple(context.get_tensor_shape(self._tensors.output))
        if answered != (shape[0], self._embed_dim):
            expected = [shape[0], self._embed_dim]
            raise DataError(
                f"gives {self._tensors.output} {list(answered)} instead of {expected}",
                where=self._path,
                remedy=AGAIN,
            )
        bucket = Bucket(context, shape)
        self._enqueue(bucket)  # TensorRT does on the first run what must not be captured
        self._stream.synchronize()
        if not hasattr(self._trt, "CudaGraphStrategy"):
            bucket.graph = self._capture(bucket)
        self._buckets[profile, shape] = bucket
        return bucket

    def _make_context(self) -> Any:
        """Of TensorRT-RTX with its own graphs: it replaces kernels while it runs, which a captured graph would not."""
        trt, engine = self._trt, self._engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "CudaGraphStrategy"):
            return engine.create_execution_context(strategy)
        runtime_config = engine.create_runtime_config()
        runtime_config.set_execution_context_allocation_strategy(strategy)
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(runtime_config)

    def _capture(self, bucket: Bucket) -> Any:
        """The executable graph of one run; None, with a line in the log, for an engine that cannot be captured."""
        cudart, stream = self._cudart, self._stream.handle
        # other threads may allocate meanwhile
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cudart, cudart.cudaStreamBeginCapture(stream, mode))
        fault: KdxError | None = None
        try:
            self._enqueue(bucket)
        except KdxError as error:
            fault = error
        error, graph = cudart.cudaStreamEndCapture(stream)
        if error != cudart.cudaError_t.cudaSuccess:
            log.warning("%s runs without a CUDA graph: %s", self._path, fault or error.name)
            return None
        try:
            if fault is None:
                return checked(cudart, cudart.cudaGraphInstantiate(graph, 0))
            log.warning("%s runs without a CUDA graph: %s", self._path, fault)
            return None
        finally:
            checked(cudart, cudart.cudaGraphDestroy(graph))

    def _enqueue(self, bucket: Bucket) -> None:
        """Host to device, the network, device to host, in order on the tower's stream."""
        cudart, stream, context = self._cudart, self._stream.handle, bucket.context
        sizes = int(np.prod(bucket.shape)) * 4, bucket.shape[0] * self._embed_dim * 4
        there = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        back = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        source, target = self._host_input.address, self._device_input.address
        checked(cudart, cudart.cudaMemcpyAsync(target, source, sizes[0], there, stream))
        if not context.execute_async_v3(int(stream)):
            raise self._fault(f"does not run on {self._tensors.input} {list(bucket.shape)}")
        source, target = self._device_output.address, self._host_output.address
        checked(cudart, cudart.cudaMemcpyAsync(target, source, sizes[1], back, stream))

    def _fault(self, what: str) -> KdxError:
        """What TensorRT refuses, by its owner: a GPU without memory or in trouble, or else the plan."""
        return fault_of(f"{what}: {self._messages.reason()}", self._path)


def fault_of(what: str, path: Path) -> KdxError:
    """SetupError where TensorRT's words are about memory or CUDA, else DataError."""
    if any(word in what.lower() for word in ("memory", "cuda")):
        return SetupError(what, where=path, remedy="free the GPU's memory; `nvidia-smi` says what uses it")
    return DataError(what, where=path, remedy=AGAIN)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below it."""
    return 1 << (number - 1).bit_length()
