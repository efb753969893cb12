"""PyTorch's AOTInductor as runtime of an ExportedModel: compiled code for one kind of machine, without model code.

A .pt2 file holds machine code that runs when it is opened. There is no door for a bare one: it is opened as part of a
sealed exported model, whose digests are checked before.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.cpu import instruction_sets, lacks_bf16
from kdx.core.encoder import FloatArray
from kdx.core.errors import DataError, KdxError, SetupError
from kdx.core.extras import naming_the_extra

from .exported_encoder import AGAIN, ExportedEncoder, Graph, runtime_fault
from .exported_model import ExportedModel

# what compilers use of a CPU, of all that it has
GENERATED = re.compile(
    r"(sse|ssse|avx|amx|fma|bmi|f16c|gfni|vaes|vpclmul|popcnt|abm|movbe|adx|sve|asimd|i8mm|bf16)"
)
# words of PyTorch for what the machine lacks; its exceptions' classes do not tell
MACHINE = re.compile(r"alloc|out of memory|CUDA|cuda|dlopen|No space", re.IGNORECASE)


class Pt2Encoder(ExportedEncoder):
    """Runs an exported model on the kind of CPU or GPU that it was compiled for.

    num_threads: threads of one call, by default PyTorch's own choice. It is set for the calling thread at each call,
    since PyTorch's count belongs to the process. A tower is opened on its first use. Several threads may share the
    encoder.

    Raises SetupError when torch is missing or this machine is not of the kind that the model was compiled for;
    UsageError for pixels and tokens that are not what `spec` says, and in a process that was forked after the encoder
    was made; DataError for a damaged package.
    """

    def __init__(self, model: ExportedModel, *, num_threads: int | None = None) -> None:
        super().__init__(model, num_threads)
        check_kind_of_machine(model.options, model.path)
        self._device: str = model.options["device"]
        self._max_batch: int = model.options["max_batch"]
        self._num_threads = num_threads
        self._pid = os.getpid()
        self._opened: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._opened.clear()

    def _run(self, graph: Graph, batch: npt.NDArray[Any]) -> FloatArray:
        from .torch_process import check_process

        check_process(self._pid)
        parts = range(0, len(batch), self._max_batch)
        return np.concatenate(
            [self._run_part(graph.path, batch[start : start + self._max_batch]) for start in parts]
        )

    def _run_part(self, path: Path, batch: npt.NDArray[Any]) -> FloatArray:
        """batch: at most max_batch rows."""
        torch = import_torch()
        from .torch_process import true_fp32

        package = self._open(path)
        if self._num_threads:
            torch.set_num_threads(self._num_threads)
        try:
            with torch.inference_mode(), true_fp32():
                inputs = torch.from_numpy(np.array(batch, order="C")).to(self._device)
                return package(inputs).cpu().numpy()
        except Exception as error:  # all that compiled code raises is RuntimeError
            raise _fault(f"does not run on {list(batch.shape)}", path, error) from None

    def _open(self, path: Path) -> Any:
        with self._lock:
            if path not in self._opened:
                import_torch()
                import torch._inductor

                try:
                    self._opened[path] = torch._inductor.aoti_load_package(str(path))
                except Exception as error:  # RuntimeError, or what its archive reader raises
                    raise _fault("does not open in PyTorch", path, error) from None
            return self._opened[path]


def import_torch() -> Any:
    """The torch module. Raises SetupError if it is missing."""
    with naming_the_extra():
        import torch

        return torch


def kind_of_machine() -> dict[str, Any]:
    """What a compiled package is bound to: device, PyTorch, and the CPU's instruction sets or the GPU's capability."""
    torch = import_torch()
    kind: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "machine": platform.machine()}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return {**kind, "device": "cuda", "compute_capability": f"{major}.{minor}"}
    used = sorted(name for name in instruction_sets() if GENERATED.match(name))
    return {**kind, "device": "cpu", "instruction_sets": used}


def check_kind_of_machine(options: dict[str, Any], where: Path) -> None:
    """Raises SetupError if a package with these options was not compiled for a machine like this one."""
    here = kind_of_machine()
    made: dict[str, Any] = {"torch": "", "machine": "", "device": "", "max_batch": 0, **options}
    if made["device"] not in ("cpu", "cuda") or not made["max_batch"] >= 1:
        raise DataError("says no device and max_batch", where=where / "config.json", remedy=AGAIN)
    if made["torch"] != here["torch"]:
        fault = f"was compiled by PyTorch {made['torch']}, and here is {here['torch']}"
    elif made["machine"] != here["machine"]:
        fault = f"was compiled for {made['machine']}, and this is {here['machine']}"
    elif made["device"] == "cuda" and here["device"] != "cuda":
        fault = "was compiled for a GPU, and PyTorch sees none here"
    elif made["device"] == "cuda":
        capability, found = made.get("compute_capability"), here["compute_capability"]
        if capability == found:
            return
        fault = f"was compiled for GPUs of compute capability {capability}, and this one has {found}"
    else:
        lacking = sorted(set(made.get("instruction_sets", ())) - instruction_sets())
        if not lacking:
            return
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        fault = f"was compiled for a CPU with {', '.join(lacking[:3])}{more}, which this one lacks"
    raise SetupError(fault, where=where, remedy="export the model again on a machine like this one")


def check_machine(precision: str, target: str) -> None:
    """Raises SetupError when torch, its C++ compiler, beside a GPU triton, or the precision's arithmetic is missing."""
    torch = import_torch()
    on_cpu = not torch.cuda.is_available()
    if on_cpu and (precision == "fp16" or (precision == "bf16" and lacks_bf16())):
        raise SetupError(
            f"PyTorch has no fast {precision} arithmetic on this machine's CPU",
            remedy="take --precision fp32, or a machine with a GPU",
        )
    compiler = os.environ.get("CXX", "g++")  # where PyTorch's Inductor looks
    if shutil.which(compiler) is None:
        raise SetupError(
            f"there is no C++ compiler {compiler}, which a pt2 package is compiled with",
            remedy="apt-get install g++, or name another compiler by CXX",
        )
    if not on_cpu:
        try:
            importlib.import_module("triton")
        except ImportError:
            raise SetupError(
                "a pt2 package for a GPU is compiled with triton, which is not installed",
                remedy="pip install triton, in the version that this PyTorch asks for",
            ) from None


def _fault(what: str, path: Path, error: Exception) -> KdxError:
    return runtime_fault(what, path, error, MACHINE)
