"""The PyTorch form of an Encoder: a Checkpoint, in eager mode, in true fp32."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import torch

from kdx.core.digests import value_digest
from kdx.core.encoder import Encoder, FloatArray, IntArray, check_pixels, check_tokens
from kdx.models.checkpoint import Checkpoint, open_checkpoint

from .torch_process import check_process, true_fp32


class TorchEncoder(Encoder):
    """Runs a checkpoint on the GPU if there is one, else on the CPU. Several threads may share it.

    The checkpoint stays where it is: a GPU gets a copy of the model, on the CPU it is shared.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = checkpoint.spec
        self.preprocess = checkpoint.spec.preprocess()
        self.tokenizer = checkpoint.tokenizer
        self.precision = "fp32"
        self.identity = value_digest(["torch", self.spec.to_dict()])
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
        check_process(self._pid)
        check_pixels(self.spec, pixels)
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        with true_fp32():
            features = self._model.encode_image(batch, normalize=True)  # pyright: ignore[reportUnknownMemberType]
            return features.float().cpu().numpy()

    @torch.inference_mode()
    def encode_text(self, tokens: IntArray) -> FloatArray:
        """As every Encoder. Raises UsageError in a process that was forked after the encoder was made."""
        check_process(self._pid)
        check_tokens(self.spec, tokens)
        batch = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        with true_fp32():
            return self._model.encode_text(batch, normalize=True).float().cpu().numpy()
