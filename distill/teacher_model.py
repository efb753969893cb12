"""A teacher as training needs it: a checkpoint that embeds uint8 pixels and tokens on the device of the run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from kdx.core.encoder import IntArray
from kdx.core.preprocess import normalize_levels
from kdx.core.tokenizers import open_tokenizer
from kdx.models.checkpoint import open_checkpoint, read_checkpoint_spec, resolve_run
from kdx.models.clip import ClipModel
from kdx.runtime.torch_process import true_fp32

from .devices import DTYPES
from .recipe import Precision
from .teacher_cache.storage import Pixels


class TeacherModel:
    """A frozen checkpoint or run's student. Its weights are read when it is first asked, for a cache may know all.

    precision: of the towers; None: bf16 on a GPU that computes in it, else fp32. Raises DataError for what is no
    checkpoint, and when it is first asked, for one that is not whole.
    """

    def __init__(self, path: Path, precision: Precision | None = None) -> None:
        self.path = path
        self.place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        has_bf16 = self.place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.precision: str = precision or ("bf16" if has_bf16 else "fp32")
        self.spec = read_checkpoint_spec(path)
        self.preprocess = self.spec.preprocess()
        folder = resolve_run(path)
        self.tokenizer = open_tokenizer(folder)
        self.spec.check_tokenizer(self.tokenizer, folder)

    @functools.cached_property
    def model(self) -> ClipModel:
        model = open_checkpoint(self.path).model.requires_grad_(False)
        return model.to(self.place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @functools.cached_property
    def _by_channel(self) -> tuple[Tensor, Tensor]:
        """Mean and std, [3, 1, 1]."""
        mean, std = (
            torch.tensor(values, device=self.place).view(3, 1, 1)
            for values in (self.spec.mean, self.spec.std)
        )
        return mean, std

    @torch.no_grad()
    def embed_pixels(self, pixels: Pixels) -> Tensor:
        """pixels: uint8 [B, S, S, 3]. Returns float32 [B, D], unit rows, on the device, which may still compute."""
        levels = self._copied(pixels).permute(0, 3, 1, 2).float()  # [B, 3, S, S], channels last
        with true_fp32(), self._autocast():
            embeddings = self.model.encode_image(normalize_levels(levels, *self._by_channel))
        return F.normalize(embeddings.float(), dim=-1)

    @torch.no_grad()
    def embed_tokens(self, tokens: IntArray) -> Tensor:
        """tokens: int [B, L], as `spec.pad` gives them. Returns float32 [B, D] as `embed_pixels`."""
        with true_fp32(), self._autocast():
            embeddings = self.model.encode_text(self._copied(tokens))
        return F.normalize(embeddings.float(), dim=-1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.place.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def _copied(self, array: npt.NDArray[Any]) -> Tensor:
        """On the device; a GPU copies it while the program goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.place, non_blocking=True) if self.place.type == "cuda" else tensor
