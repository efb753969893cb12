"""The ONNX form of an Encoder: the two graphs of an ExportedModel in ONNX Runtime, without torch."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError, KdxError, SetupError, UsageError, beginning
from kdx.core.provenance import cpu_count, gpu_names

from .exported_encoder import AGAIN, SHOWN_REASON, ExportedEncoder, Graph, runtime_fault
from .exported_model import ExportedModel

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Exact fp32: TF32 alone moves embeddings by up to 1e-3. An fp16 graph multiplies halves and sums them in fp32, which is
# ONNX Runtime's default (the environment's ORT_CUDA_GEMM_OPTIONS can change it); its fp32 part is exact as well.
CUDA_OPTIONS = {"use_tf32": "0"}
# ONNX Runtime's words for what the machine lacks; its exceptions' classes do not tell
MACHINE = re.compile(r"alloc|out of memory|EPFail|DeviceReset|CUDA|CUBLAS|CUDNN|CUFFT", re.IGNORECASE)


class Session(Protocol):
    """What is used of onnxruntime.InferenceSession."""

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]: ...
    def io_binding(self) -> Any: ...
    def run_with_iobinding(self, iobinding: Any) -> None: ...
    def get_providers(self) -> list[str]: ...
    def get_provider_options(self) -> dict[str, dict[str, str]]: ...
    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...


class OnnxEncoder(ExportedEncoder):
    """Runs an exported model on the GPU if onnxruntime-gpu and a GPU are there, else on the CPU.

    num_threads: threads of one call, by default one for each core that this process may use. A tower's
    session is made on its first use. Several threads may share the encoder.

    Raises UsageError for pixels and tokens that are not what `spec` says, DataError for a damaged graph, SetupError
    when onnxruntime is missing, cannot use the GPU or gets no memory.
    """

    def __init__(self, model: ExportedModel, *, num_threads: int | None = None) -> None:
        super().__init__(model, num_threads)
        if model.target != "cpu":
            raise UsageError(
                f"is made for TensorRT ({model.precision}, target {model.target}), which ONNX Runtime would run slowly",
                where=model.path,
                remedy="build an engine of it with --format trt, or export with --target cpu",
            )
        self._disabled: dict[str, list[str]] = model.options.get("disabled_optimizers", {})
        self._num_threads = num_threads or cpu_count()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def provider(self) -> str:
        """ONNX Runtime's name of what runs both towers, such as CPUExecutionProvider. Opens them."""
        image, text = (self._session(graph).get_providers()[0] for graph in (self._image, self._text))
        assert image == text, f"the towers run on {image} and {text}"  # open_session takes nothing else
        return image

    def close(self) -> None:
        with self._lock:
            self._sessions.clear()

    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        session = self._session(graph)
        try:
            return run_session(session, graph, batch)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise _fault(f"does not run on {graph.input} {list(batch.shape)}", graph.path, error) from None

    def _session(self, graph: Graph) -> Session:
        with self._lock:
            session = self._sessions.get(graph.output)
            if session is None:
                disabled = self._disabled.get(graph.path.stem, ())
                session = open_session(import_onnxruntime(), graph.path, self._num_threads, disabled)
                _check_names(graph, session)
                self._sessions[graph.output] = session
            return session


def check_machine(precision: str, target: str) -> None:
    """Raises SetupError when onnxruntime is missing or does not load, UsageError for a target of another precision."""
    if target == "trt" and precision != "int8":
        raise UsageError(
            f"the target trt has files of its own for int8 alone, not for {precision}",
            remedy="leave --target out, or build an engine with --format trt",
        )
    import_onnxruntime()


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises SetupError if it is missing or does not load."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise SetupError(
            f"onnxruntime does not import: {beginning(str(error), SHOWN_REASON)}",
            remedy="pip install 'kdx[cpu]', or 'kdx[gpu]' on a machine with an NVIDIA GPU",
        ) from None


def open_session(
    onnxruntime: Any, path: Path, num_threads: int, disabled_optimizers: Sequence[str] = ()
) -> Session:
    """An InferenceSession that really runs where it should. Raises DataError, SetupError.

    disabled_optimizers: names of those that this file does not bear, as its export found out.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # idle threads that spin halve the speed of every other session on the same cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    providers = _choose_providers(onnxruntime)
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=providers,
            disabled_optimizers=list(disabled_optimizers),
            enable_fallback=0,  # it would print to stdout, and try again without disabled_optimizers
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _fault("does not open in ONNX Runtime", path, error) from None
    _check_provider(session, *providers[0])
    return session


def _check_provider(session: Session, provider: str, options: dict[str, str]) -> None:
    """Raises SetupError for a session that runs elsewhere, or in another arithmetic, than it was asked to."""
    if session.get_providers()[0] != provider:  # it falls back to the CPU with no more than a log line
        raise SetupError(
            f"onnxruntime-gpu cannot load {provider}",
            remedy="pip install 'onnxruntime-gpu[cuda,cudnn]', or onnxruntime instead to run on the CPU",
        )
    taken = session.get_provider_options()[provider]
    refused = [f"{name}={value}" for name, value in options.items() if taken.get(name) != value]
    if refused:
        raise SetupError(
            f"onnxruntime-gpu does not take {refused[0]} for {provider}",
            remedy="install the version of onnxruntime-gpu that kdx asks for",
        )


def run_session(session: Session, graph: Graph, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The output of one call, on the CPU. On a GPU input and output are bound to its memory."""
    if session.get_providers()[0] == CUDA:
        return run_bound(session, graph, batch, "cuda")
    (features,) = session.run([graph.output], {graph.input: batch})
    return features


def run_bound(session: Session, graph: Graph, batch: npt.NDArray[Any], device: str) -> npt.NDArray[Any]:
    """The batch is copied to the device before the run and the output from it after the run, so that the run itself
    neither allocates nor copies for its borders.
    """
    binding = session.io_binding()
    on_device = import_onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(batch), device, 0)
    binding.bind_ortvalue_input(graph.input, on_device)
    binding.bind_output(graph.output, device)
    session.run_with_iobinding(binding)
    (features,) = binding.copy_outputs_to_cpu()
    return features


def _choose_providers(onnxruntime: Any) -> list[tuple[str, dict[str, str]]]:
    """CUDA in true fp32 where a GPU is, with the CPU for what CUDA lacks; else the CPU."""
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    if CUDA not in onnxruntime.get_available_providers() or not gpu_names():
        return [cpu]
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN among the installed wheels
        onnxruntime.preload_dlls()
    return [(CUDA, dict(CUDA_OPTIONS)), cpu]


def _check_names(graph: Graph, session: Session) -> None:
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    if inputs != [graph.input] or outputs != [graph.output]:
        raise DataError(
            f"has the tensors {inputs} → {outputs} instead of {graph.input} → {graph.output}",
            where=graph.path,
            remedy=AGAIN,
        )


def _fault(what: str, path: Path, error: Exception) -> KdxError:
    return runtime_fault(what, path, error, MACHINE)
