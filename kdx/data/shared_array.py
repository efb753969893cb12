"""An array that several processes write to and read, in memory that has no name and so cannot be left behind.

Unlike torch's and Python's shared memory it is not taken from /dev/shm, of which containers have 64 MiB by default.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import numpy.typing as npt


class SharedArray:
    """`array` is the same memory in every process that this object is given to when it is started."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, descriptor: int | None = None) -> None:
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        if descriptor is None:
            descriptor = os.memfd_create("kdx", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self._descriptor = descriptor
        memory = mmap.mmap(descriptor, size)
        self.array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=memory)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (DupFd(self._descriptor), self.array.shape, self.array.dtype.str)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _opened(descriptor: Any, shape: tuple[int, ...], dtype: str) -> SharedArray:
    return SharedArray(shape, dtype, descriptor.detach())
