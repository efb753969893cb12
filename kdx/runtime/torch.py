"""The PyTorch form of an Encoder: a Checkpoint, in eager mode, fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kdx.core.encoder import Encoder, FloatArray, IntArray
from kdx.models.checkpoint import Checkpoint, open_checkpoint


class TorchEncoder(Encoder):
    """Runs a checkpoint on the GPU if there is one, else on the CPU. Several threads may share it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = checkpoint.spec
        self.preprocess = checkpoint.spec.preprocess()
        self.tokenizer = checkpoint.tokenizer
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = checkpoint.model.to(self._device)

    @classmethod
    def open(cls, path: Path) -> TorchEncoder:
        """Opens a Checkpoint folder or a run's student. Raises DataError when it is not whole."""
        return cls(open_checkpoint(path))

    @torch.inference_mode()
    def encode_image(self, pixels: FloatArray) -> FloatArray:
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        features = self._model.encode_image(batch, normalize=True)  # pyright: ignore[reportUnknownMemberType]
        return features.float().cpu().numpy()

    @torch.inference_mode()
    def encode_text(self, tokens: IntArray) -> FloatArray:
        batch = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(self._device)  # pyright: ignore[reportUnknownMemberType]
        return self._model.encode_text(batch, normalize=True).float().cpu().numpy()
