"""The ONNX form of an Encoder: the two graphs of an ExportedModel in ONNX Runtime, without torch."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Encoder, FloatArray, IntArray, check_pixels, check_tokens
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.provenance import cpu_count, gpu_names
from kdx.core.tokenizer import Tokenizer

from .exported_model import ExportedModel

PIXELS, IMAGE_FEATURES = "pixels", "image_features"
TOKENS, TEXT_FEATURES = "tokens", "text_features"

AGAIN = "export the model again"
# ONNX Runtime's words for what the machine lacks; its exceptions' classes do not tell
MACHINE = re.compile(r"alloc|out of memory|EPFail|DeviceReset|CUDA|CUBLAS|CUDNN|CUFFT", re.IGNORECASE)


class Session(Protocol):
    """What is used of onnxruntime.InferenceSession."""

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]: ...
    def get_providers(self) -> list[str]: ...
    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...


@dataclass(frozen=True)
class Graph:
    """One tower: its file and the names of its tensors."""

    path: Path
    input: str
    output: str


class OnnxEncoder(Encoder):
    """Runs an exported model on the GPU if onnxruntime-gpu and a GPU are there, else on the CPU, in fp32.

    num_threads: threads of one call, by default one for each core that this process may use. A tower's
    session is made on its first use. Several threads may share the encoder.

    Raises UsageError for pixels and tokens that are not what `spec` says, DataError for a damaged graph, SetupError
    when onnxruntime is missing, cannot use the GPU or gets no memory.
    """

    def __init__(self, model: ExportedModel, *, num_threads: int | None = None) -> None:
        if num_threads is not None and num_threads < 1:
            raise UsageError(f"num_threads = {num_threads} is not positive", remedy="leave it out, or give 1")
        if model.target != "cpu":
            raise UsageError(
                f"is made for TensorRT ({model.precision}, target {model.target}), which ONNX Runtime would run slowly",
                where=model.path,
                remedy="build an engine of it with --format trt, or export with --target cpu",
            )
        self.spec = model.spec
        self.preprocess = model.spec.preprocess()
        self.tokenizer = Tokenizer.from_file(model.tokenizer)
        self.spec.check_tokenizer(self.tokenizer, model.tokenizer)
        self._image = Graph(model.image_encoder, PIXELS, IMAGE_FEATURES)
        self._text = Graph(model.text_encoder, TOKENS, TEXT_FEATURES)
        self._num_threads = num_threads or cpu_count()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """pixels: float32 [B, 3, S, S], preprocessed. Returns float32 [B, D], unit rows."""
        check_pixels(self.spec, pixels)
        return self._run(self._image, pixels)

    def encode_text(self, tokens: IntArray) -> FloatArray:
        """tokens: int [B, 2 ≤ L ≤ context_length], padded with 0. Returns float32 [B, D], unit rows."""
        check_tokens(self.spec, tokens)
        return self._run(self._text, tokens.astype(np.int32, copy=False))

    def provider(self) -> str:
        """ONNX Runtime's name of what runs the image encoder, such as CPUExecutionProvider."""
        return self._session(self._image).get_providers()[0]

    def close(self) -> None:
        with self._lock:
            self._sessions.clear()

    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        expected = (len(batch), self.spec.embed_dim)
        if not len(batch):
            return np.empty(expected, dtype=np.float32)
        session = self._session(graph)
        try:
            (features,) = session.run([graph.output], {graph.input: batch})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise _fault(f"does not run on {graph.input} {list(batch.shape)}", graph.path, error) from None
        if features.shape != expected or features.dtype != np.float32:
            got = f"{features.dtype} {list(features.shape)}"
            raise DataError(
                f"gave {graph.output} {got} instead of float32 {list(expected)}",
                where=graph.path,
                remedy=AGAIN,
            )
        if not np.isfinite(features).all():
            raise DataError(f"gave NaN or infinity as {graph.output}", where=graph.path, remedy=AGAIN)
        return features

    def _session(self, graph: Graph) -> Session:
        with self._lock:
            session = self._sessions.get(graph.output)
            if session is None:
                session = open_session(import_onnxruntime(), graph.path, self._num_threads)
                _check_names(graph, session)
                self._sessions[graph.output] = session
            return session


def check_machine(precision: str, target: str) -> None:
    """Raises SetupError when onnxruntime is missing or does not load."""
    import_onnxruntime()


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises SetupError if it is missing or does not load."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise SetupError(
            f"onnxruntime does not import: {_one_line(error)}",
            remedy="pip install 'kdx[cpu]', or 'kdx[gpu]' on a machine with an NVIDIA GPU",
        ) from None


def open_session(onnxruntime: Any, path: Path, num_threads: int) -> Session:
    """An InferenceSession that really runs where it should. Raises DataError, SetupError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # idle threads that spin halve the speed of every other session on the same cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    providers = _choose_providers(onnxruntime)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _fault("does not open in ONNX Runtime", path, error) from None
    if session.get_providers()[0] != providers[0][0]:  # it falls back to the CPU with no more than a log line
        raise SetupError(
            f"onnxruntime-gpu cannot load {providers[0][0]}",
            remedy="pip install 'onnxruntime-gpu[cuda,cudnn]', or onnxruntime instead to run on the CPU",
        )
    return session


def _choose_providers(onnxruntime: Any) -> list[tuple[str, dict[str, str]]]:
    """CUDA in true fp32 where a GPU is, with the CPU for what CUDA lacks; else the CPU."""
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not gpu_names():
        return [cpu]
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN among the installed wheels
        onnxruntime.preload_dlls()
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), cpu]


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
    """What ONNX Runtime raises, by its owner: a machine without memory or with a failing GPU, or else the file."""
    reason = _one_line(error)
    if isinstance(error, MemoryError | OSError) or MACHINE.search(f"{type(error).__name__}: {reason}"):
        return SetupError(
            f"{what}: {reason}",
            where=path,
            remedy="free memory, or give smaller batches; `kdx doctor` says what this machine has",
        )
    return DataError(f"{what}: {reason}", where=path, remedy=AGAIN)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
