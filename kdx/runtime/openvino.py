"""OpenVINO as runtime of an ExportedModel: the ONNX graphs on this machine's CPU, without torch."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.cpu import lacks_bf16
from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError, KdxError, SetupError, beginning
from kdx.core.provenance import cpu_count

from .exported_encoder import AGAIN, SHOWN_REASON, ExportedEncoder, Graph, runtime_fault
from .exported_model import ExportedModel

INSTALL = "pip install 'kdx[openvino]'"
TELEMETRY = "openvino_telemetry"
# what each precision of an exported model means as OpenVINO's INFERENCE_PRECISION_HINT
INFERENCE_PRECISION = {"fp32": "f32", "bf16": "bf16"}
MACHINE = re.compile("alloc")  # OpenVINO's word for what the machine lacks


@dataclass(frozen=True)
class Tower:
    """A compiled graph. An inference request runs one batch at a time, so that its users wait for the lock."""

    request: Any  # openvino.InferRequest
    lock: threading.Lock


class OpenVinoEncoder(ExportedEncoder):
    """Runs an exported model on the CPU in the arithmetic that it was exported for, and in no other.

    num_threads: threads of one call, by default one for each core that this process may use. A tower is compiled on
    its first use, and the first batch of a new shape takes some 10 to 30 ms more. Several threads may share the
    encoder; a tower's batches run one after another.

    Raises UsageError for pixels and tokens that are not what `spec` says, DataError for a damaged graph, SetupError
    when openvino is missing, the CPU lacks the arithmetic or there is no memory.
    """

    def __init__(self, model: ExportedModel, *, num_threads: int | None = None) -> None:
        super().__init__(model, num_threads)
        self._precision = _inference_precision(model)
        self._num_threads = num_threads or cpu_count()
        self._towers: dict[str, Tower] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._towers.clear()

    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        tower = self._tower(graph)
        try:
            with tower.lock:
                # copied on the way out, since the request writes its next answer to the same place
                return tower.request.infer([np.ascontiguousarray(batch)], share_inputs=True)[0]
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise _fault(f"does not run on {graph.input} {list(batch.shape)}", graph.path, error) from None

    def _tower(self, graph: Graph) -> Tower:
        with self._lock:
            tower = self._towers.get(graph.output)
            if tower is None:
                compiled = _compile(graph, self._precision, self._num_threads)
                tower = Tower(compiled.create_infer_request(), threading.Lock())
                self._towers[graph.output] = tower
            return tower


def check_machine(precision: str, target: str) -> None:
    """Raises SetupError when openvino is missing, does not load, or the CPU lacks the precision's arithmetic."""
    if precision == "bf16" and lacks_bf16():
        raise SetupError(
            "this machine's CPU has no bf16 arithmetic (avx512_bf16 or amx_bf16)",
            remedy="take --precision fp32, or a machine with it",
        )
    import_openvino()


def import_openvino() -> Any:
    """The openvino module, which reports nothing to anybody. Raises SetupError if it is missing or does not load.

    By itself `import openvino` writes a user id to ~/intel and sends an event to Google Analytics, through the package
    openvino-telemetry; where that does not import, OpenVINO does without (openvino/tools/ovc/telemetry_utils.py).
    """
    silenced = "openvino" not in sys.modules and TELEMETRY not in sys.modules
    if silenced:
        sys.modules[TELEMETRY] = None  # pyright: ignore[reportArgumentType]  what makes an import fail
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise SetupError(
            f"openvino does not import: {beginning(str(error), SHOWN_REASON)}", remedy=INSTALL
        ) from None
    finally:
        if silenced:
            del sys.modules[TELEMETRY]


def _inference_precision(model: ExportedModel) -> str:
    precision = model.options.get("inference_precision")
    if precision not in INFERENCE_PRECISION.values():
        raise DataError(
            f"inference_precision is {precision!r}, not one of {sorted(set(INFERENCE_PRECISION.values()))}",
            where=model.path / "config.json",
            remedy=AGAIN,
        )
    return str(precision)


def _compile(graph: Graph, precision: str, num_threads: int) -> Any:
    """An openvino.CompiledModel that computes in `precision`. Raises DataError, SetupError."""
    openvino = import_openvino()
    settings = {
        # without it OpenVINO takes bf16 on every CPU that has it, and says so nowhere
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        # two processes that pin their threads take the same cores
        "ENABLE_CPU_PINNING": False,
    }
    try:
        core = openvino.Core()
        network = core.read_model(str(graph.path))
        inputs = [sorted(port.get_names()) for port in network.inputs]
        outputs = [sorted(port.get_names()) for port in network.outputs]
        # Compiling gives its thread a stack for signals that goes with the model: of two, the one that is freed last
        # puts the other's back, and the next signal that Python handles in that thread kills the process. So it is
        # done in a thread that ends here.
        with ThreadPoolExecutor(1) as thread:
            compiled = thread.submit(core.compile_model, network, "CPU", settings).result()
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        raise _fault("does not open in OpenVINO", graph.path, error) from None
    if inputs != [[graph.input]] or outputs != [[graph.output]]:
        raise DataError(
            f"has the tensors {inputs} → {outputs} instead of {graph.input} → {graph.output}",
            where=graph.path,
            remedy=AGAIN,
        )
    if taken != precision:
        raise SetupError(
            f"OpenVINO computes in {taken} here, and not in {precision} as the model was exported for",
            where=graph.path,
            remedy="take a machine with that arithmetic, or export another precision",
        )
    return compiled


def _fault(what: str, path: Path, error: Exception) -> KdxError:
    return runtime_fault(what, path, error, MACHINE)
