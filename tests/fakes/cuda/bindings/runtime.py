"""A CUDA without a GPU: device memory is host memory, a stream runs at once, a captured graph is a list of calls.

It stands in for cuda.bindings.runtime; tests/runtime/test_cuda.py holds each of its names against the real package.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

cudaStreamNonBlocking = 1
cudaHostAllocDefault = 0

device: dict[int, ctypes.Array[ctypes.c_byte]] = {}  # what is allocated, by address
host: dict[int, ctypes.Array[ctypes.c_byte]] = {}
streams: dict[int, Any] = {}  # what is captured on each, None while none is
launches = 0
GPU = SimpleNamespace(name=b"Fake GPU", major=9, minor=0)


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


def cudaGetErrorString(error):
    return cudaError_t.cudaSuccess, error.name.encode()


def cudaGetDeviceCount():
    return cudaError_t.cudaSuccess, 1


def cudaGetDeviceProperties(device):
    return cudaError_t.cudaSuccess, GPU


def cudaMalloc(size):
    if size > 2**34:
        return cudaError_t.cudaErrorMemoryAllocation, None
    return cudaError_t.cudaSuccess, _allocate(size, device)


def cudaFree(devPtr):
    del device[devPtr]
    return (cudaError_t.cudaSuccess,)


def cudaHostAlloc(size, flags):
    return cudaError_t.cudaSuccess, _allocate(size, host)


def cudaFreeHost(ptr):
    del host[ptr]
    return (cudaError_t.cudaSuccess,)


def cudaStreamCreateWithFlags(flags):
    handle = len(streams) + 1
    streams[handle] = None
    return cudaError_t.cudaSuccess, handle


def cudaStreamSynchronize(stream):
    return (cudaError_t.cudaSuccess,)


def cudaStreamDestroy(stream):
    del streams[stream]
    return (cudaError_t.cudaSuccess,)


def cudaMemcpyAsync(dst, src, count, kind, stream):
    source, target = (host, device) if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else (device, host)
    if count > len(source[src]) or count > len(target[dst]):
        return (cudaError_t.cudaErrorInvalidValue,)
    submit(stream, lambda: ctypes.memmove(dst, src, count))
    return (cudaError_t.cudaSuccess,)


def cudaStreamBeginCapture(stream, mode):
    assert streams[stream] is None, "the stream is capturing already"
    streams[stream] = []
    return (cudaError_t.cudaSuccess,)


def cudaStreamEndCapture(stream):
    calls, streams[stream] = streams[stream], None
    return cudaError_t.cudaSuccess, calls


def cudaGraphInstantiate(graph, flags):
    return cudaError_t.cudaSuccess, list(graph)


def cudaGraphDestroy(graph):
    return (cudaError_t.cudaSuccess,)


def cudaGraphLaunch(graphExec, stream):
    global launches
    launches += 1
    for call in graphExec:
        call()
    return (cudaError_t.cudaSuccess,)


def cudaGraphExecDestroy(graphExec):
    return (cudaError_t.cudaSuccess,)


def submit(stream, call):
    """Not CUDA's: what the fake TensorRT enqueues. Runs at once, or is kept while the stream is captured."""
    if streams[stream] is None:
        call()
    else:
        streams[stream].append(call)


def _allocate(size, kind):
    memory = (ctypes.c_byte * size)()
    address = ctypes.addressof(memory)
    kind[address] = memory
    return address
