"""The PyTorch form of an Encoder: a Checkpoint, in eager mode, in true fp32."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdx.core.encoder import Encoder, FloatArray, IntArray, check_pixels, check_tokens
from kdx.core.errors import UsageError
from kdx.models.checkpoint import Checkpoint, open_checkpoint


class TorchEncoder(Encoder):
    """Runs a checkpoint on the GPU if there is one, else on the CPU. Several threads may share it.

    The checkpoint stays where it is: a GPU gets a copy of the model, on the CPU it is shared.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = checkpoint.spec
        self.preprocess = checkpoint.spec.preprocess()
        self.tokenizer = checkpoint.tokenizer
        self._pid = os.getpid()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_cpu = self._device.type == "cpu"
        self._model = checkpoint.model if on_cpu else copy.deepcopy(checkpoint.model).to(self._device)

    @classmethod
    def open(cls, path: Path) -> TorchEncoder:
        """Opens a Checkpoint folder or a run's student. Raises DataError when it is not whole."""
        return cls(open_checkpoint(path))

    @torch.inference_mode()
    def encode_image(self, pixels: FloatArray) -> FloatArray:
        """As every Encoder. Raises UsageError in a process that was forked after the encoder was made."""
        _check_process(self._pid)
        check_pixels(self.spec, pixels)
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        with true_fp32():
            features = self._model.encode_image(batch, normalize=True)  # pyright: ignore[reportUnknownMemberType]
            return features.float().cpu().numpy()

    @torch.inference_mode()
    def encode_text(self, tokens: IntArray) -> FloatArray:
        """As every Encoder. Raises UsageError in a process that was forked after the encoder was made."""
        _check_process(self._pid)
        check_tokens(self.spec, tokens)
        batch = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        with true_fp32():
            return self._model.encode_text(batch, normalize=True).float().cpu().numpy()


def _check_process(pid: int) -> None:
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
