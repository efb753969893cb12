"""CUDA as the TensorRT runner uses it: the GPU's facts, memory, one stream and graphs, through NVIDIA's own bindings.

`cuda.bindings.runtime` of the package cuda-bindings, which TensorRT's samples use too, answers with an error code
first; here a code that is not success raises. No torch.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.errors import SetupError

PACKAGE = "cuda-bindings"


@dataclass(frozen=True)
class Gpu:
    """name: as the driver has it, such as NVIDIA L4. compute_capability: such as 8.9."""

    name: str
    compute_capability: str


def import_cuda() -> Any:
    """cuda.bindings.runtime. Raises SetupError if it is missing or does not load."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise SetupError(
            f"{PACKAGE} does not import: {error}", remedy=f"pip install {PACKAGE}, of the CUDA that is here"
        ) from None


def checked(cudart: Any, answer: tuple[Any, ...]) -> Any:
    """The result of one call, None if it has none. Raises SetupError with CUDA's name for what went wrong."""
    error = answer[0]
    if error != cudart.cudaError_t.cudaSuccess:
        _, said = cudart.cudaGetErrorString(error)
        raise SetupError(
            f"CUDA answered {error.name}: {said.decode()}",
            remedy="`nvidia-smi` says whether the driver works and what uses the GPU's memory",
        )
    return answer[1] if len(answer) > 1 else None


def find_gpu(cudart: Any) -> Gpu:
    """The first GPU that CUDA shows; CUDA_VISIBLE_DEVICES chooses among several. Raises SetupError without one."""
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        raise SetupError(
            f"CUDA finds no NVIDIA GPU ({error.name})",
            remedy="run this on a machine with one; a container needs `docker run --gpus all`",
        )
    properties = checked(cudart, cudart.cudaGetDeviceProperties(0))
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


class Stream:
    """A stream of its own: on the default one TensorRT synchronises more than it must."""

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self.handle = checked(cudart, cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))

    def synchronize(self) -> None:
        checked(self._cudart, self._cudart.cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        self._cudart.cudaStreamDestroy(self.handle)


class DeviceMemory:
    """Bytes on the GPU at an address that stays."""

    def __init__(self, cudart: Any, size: int) -> None:
        self._cudart = cudart
        self.address = int(checked(cudart, cudart.cudaMalloc(max(1, size))))

    def close(self) -> None:
        self._cudart.cudaFree(self.address)


class PinnedMemory:
    """Bytes of the host that the GPU copies from and to without a detour; `array` is a view of them."""

    def __init__(self, cudart: Any, size: int) -> None:
        self._cudart = cudart
        self.address = int(checked(cudart, cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault)))
        memory = memoryview((ctypes.c_uint8 * size).from_address(self.address))
        self._bytes: npt.NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The first bytes as an array of this shape, shared and not copied."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._bytes[:size].view(dtype).reshape(shape)

    def close(self) -> None:
        self._cudart.cudaFreeHost(self.address)
