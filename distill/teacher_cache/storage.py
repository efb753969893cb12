"""How embeddings are stored, and the file of one shard.

A file has `image` [n, K, D] and `text` [n, C, D] (unit rows; C is the largest number of captions of a sample, missing
ones are zero) and `key` [n], the uint64 digests of the samples' keys. Two roundings to fp16, the usual storage, move a
logit at scale 100 by less than 0.1; those of random rows with D = 512 moved by up to 0.008. int8 has a float32 scale a
row beside it, `image_scale` [n, K] and `text_scale` [n, C].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from kdx.core.errors import DataError

Storage = Literal["fp16", "fp32", "int8"]
Pixels = npt.NDArray[np.uint8]

BYTES: dict[Storage, int] = {"fp16": 2, "fp32": 4, "int8": 1}
SCALE_BYTES = 4
DTYPES: dict[Storage, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32, "int8": torch.int8}
LARGEST = 127  # of int8, so that a value and its negative are both there


class Column:
    """Embeddings that are put in as they come, stored as they will be on the disk."""

    def __init__(self, shape: tuple[int, int, int], storage: Storage) -> None:
        self._rows = torch.zeros(shape, dtype=DTYPES[storage])
        self._scales = torch.zeros(shape[:2]) if storage == "int8" else None

    def put(self, rows: npt.NDArray[np.int64], seconds: npt.NDArray[np.int64], embeddings: Tensor) -> None:
        """embeddings: float32 [B, D] on any device, of these rows and of which view or caption of each."""
        where = torch.from_numpy(rows), torch.from_numpy(seconds)
        if self._scales is None:
            self._rows[where] = embeddings.to(self._rows.dtype).cpu()  # a GPU copies half as much
            return
        scales = embeddings.abs().amax(dim=1) / LARGEST  # [B]
        steps = embeddings / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        self._rows[where] = steps.round().to(torch.int8).cpu()
        self._scales[where] = scales.cpu()

    def tensors(self, name: str) -> dict[str, Tensor]:
        scales = {} if self._scales is None else {f"{name}_scale": self._scales}
        return {name: self._rows, **scales}


@dataclass(frozen=True)
class CachedShard:
    """What the teacher says of one shard: image [n, K, D], text [n, C, D]; int8 with scales [n, K] and [n, C]."""

    image: Tensor
    text: Tensor
    image_scale: Tensor | None = None
    text_scale: Tensor | None = None


Find = Callable[[CachedShard], tuple[Tensor, Tensor | None]]  # a column and its scales


def read_shard(
    path: Path, keys: npt.NDArray[np.uint64], num_views: int, embed_dim: int, remedy: str
) -> CachedShard:
    """Maps a file: of its embeddings nothing is read. Raises DataError unless they are of the samples `keys`, [n]."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not iterable itself
            image, text, key = (tensors[name] for name in ("image", "text", "key"))
    except (SafetensorError, KeyError) as error:
        raise DataError(f"is damaged: {error}", where=path, remedy=remedy) from None
    if not np.array_equal(key.numpy(), keys):
        raise DataError(
            "holds the embeddings of other samples, or in another order", where=path, remedy=remedy
        )
    expected = (len(keys), num_views, embed_dim)
    if image.shape != expected or text.ndim != 3 or (text.shape[0], text.shape[2]) != expected[::2]:
        raise DataError(
            f"holds embeddings of the shapes {list(image.shape)} and {list(text.shape)}, not {list(expected)}",
            where=path,
            remedy=remedy,
        )
    return CachedShard(image, text, tensors.get("image_scale"), tensors.get("text_scale"))


def as_unit_rows(stored: Tensor, scales: Tensor | None) -> Tensor:
    """float32 [B, D] of what was stored, [B, D] with scales [B]. Only int8 is coarse enough to be normalised again."""
    if scales is None:
        return stored.float()
    return F.normalize(stored.float() * scales[:, None], dim=-1)
