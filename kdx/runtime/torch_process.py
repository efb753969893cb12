"""What of PyTorch belongs to the whole process: its threads, and the switches of its arithmetic."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from kdx.core.errors import UsageError


def check_process(pid: int) -> None:
    """PyTorch does not survive a fork: its threads stay behind, and a model would wait for them for ever.

    pid: of the process that opened it. Raises UsageError in any other.
    """
    if pid != os.getpid():
        raise UsageError(
            "this model was opened before the process was forked",
            remedy="open it in the worker, or start workers with multiprocessing.get_context('spawn')",
        )


_lock = threading.Lock()
_encoding = 0  # threads that encode now
_before: list[Any] = []


def _precision_switches() -> list[tuple[Any, str, Any]]:
    """(where, attribute, value for true fp32) of each switch that may make fp32 arithmetic coarser.

    Since PyTorch 2.9 reading `allow_tf32` raises where somebody has used `fp32_precision`, so that only the newer name
    is used where it exists. oneDNN's are for CPUs, where set_float32_matmul_precision("medium") means bf16.
    """
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [(switch, "fp32_precision", "ieee") for switch in switches]


@contextmanager
def true_fp32() -> Generator[None]:
    """No TF32 or bf16 in fp32 arithmetic while any thread encodes: TF32 alone moves embeddings by up to 1e-3.

    PyTorch's switches are the whole process's, so that the first thread saves them and the last one restores them.
    """
    global _encoding, _before
    switches = _precision_switches()
    with _lock:
        if not _encoding:
            _before = [getattr(where, name) for where, name, _ in switches]
            for where, name, exact in switches:
                setattr(where, name, exact)
        _encoding += 1
    try:
        yield
    finally:
        with _lock:
            _encoding -= 1
            if not _encoding:
                for (where, name, _), value in zip(switches, _before, strict=True):
                    setattr(where, name, value)
