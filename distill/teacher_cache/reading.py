"""A whole teacher cache, as training reads it: its files are mapped, so it may be larger than the memory."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import open_sealed
from kdx.core.progress import Progress, silent
from kdx.core.urls import url_of
from kdx.data.loader import Batch
from kdx.data.shards import ShardSet

from ..objective import Embeddings
from .elsewhere import fetched, manifest_of
from .identity import ANEW, KIND, file_names, no_cache
from .storage import CachedShard, Find, Storage, as_unit_rows, read_shard


@dataclass(frozen=True)
class TeacherCache:
    """What a batch asks for is read then. reused: whether it lay there already when it was asked for."""

    shards: tuple[CachedShard, ...]
    logit_scale: float
    logit_bias: float | None
    reused: bool

    online = False

    @property
    def embed_dim(self) -> int:
        return self.shards[0].image.shape[-1]

    @functools.cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first row of each shard in the shard set."""
        return np.cumsum([0, *(len(shard.image) for shard in self.shards[:-1])])

    def of_batch(self, batch: Batch, device: torch.device) -> Embeddings:
        """As every TeacherSource; see `embeddings`."""
        return self.embeddings(batch.rows, batch.views, batch.captions, device)

    def embeddings(
        self,
        rows: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        captions: npt.NDArray[np.int64],
        device: torch.device,
    ) -> Embeddings:
        """What the teacher says of these pairs: float32 [B, D] twice, its scale and its bias.

        rows: of the shard set; views and captions: which of a row's. All int [B]. Raises DataError for an image that
        did not decode when the cache was made.
        """
        image, image_scale = self._gathered(lambda shard: (shard.image, shard.image_scale), rows, views)
        text, text_scale = self._gathered(lambda shard: (shard.text, shard.text_scale), rows, captions)
        if not image.any(dim=1).all():  # zeros stand for images that did not decode when the cache was made
            raise DataError("the teacher cache lacks images that decode now", remedy=ANEW)
        bias = None if self.logit_bias is None else torch.full((), self.logit_bias, device=device)
        return Embeddings(
            as_unit_rows(_sent(image, device), None if image_scale is None else _sent(image_scale, device)),
            as_unit_rows(_sent(text, device), None if text_scale is None else _sent(text_scale, device)),
            torch.full((), self.logit_scale, device=device),
            bias,
        )

    def _gathered(
        self, find: Find, rows: npt.NDArray[np.int64], seconds: npt.NDArray[np.int64]
    ) -> tuple[Tensor, Tensor | None]:
        """[B, D] as stored, and the scales [B] of int8."""
        column, column_scales = find(self.shards[0])
        stored = torch.empty(len(rows), self.embed_dim, dtype=column.dtype)
        scales = None if column_scales is None else torch.empty(len(rows))
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            within = torch.from_numpy(rows[here] - self.starts[number]), torch.from_numpy(seconds[here])
            column, column_scales = find(self.shards[number])
            stored[here] = column[within]
            if scales is not None and column_scales is not None:
                scales[here] = column_scales[within]
        return stored, scales


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, without waiting for it."""
    return tensor.to(device, non_blocking=True)


def read_cache(
    folder: Path,
    identity: str,
    spec: EncoderSpec,
    samples: ShardSet,
    num_views: int,
    storage: Storage | None,
    *,
    reused: bool,
    progress: Progress = silent,
) -> TeacherCache:
    """Opens the whole cache at `folder`. Raises UsageError unless it is this one, DataError when it is damaged.

    storage: None takes any.

    The digests of its keys are compared with the set's; of its embeddings nothing is read, unless the cache is small:
    `verify_cache` compares them with their digests.
    """
    _check_identity(folder, identity, storage)
    names = file_names(samples)
    with contextlib.ExitStack() as at_hand:
        if url_of(folder) is None:
            open_sealed(folder, KIND, verify_large=False)
            paths = [folder / name for name in names]
        else:
            paths = at_hand.enter_context(fetched(folder, names, progress))
        shards = tuple(
            read_shard(
                path,
                samples.key_digests[shard.rows.start : shard.rows.stop],
                num_views,
                spec.embed_dim,
                ANEW,
            )
            for path, shard in zip(paths, samples.shards, strict=True)
        )
    return TeacherCache(
        shards=shards,
        logit_scale=spec.logit_scale,
        logit_bias=spec.logit_bias or None,  # a specification says 0 where a model has none
        reused=reused,
    )


def _check_identity(folder: Path, identity: str, storage: Storage | None) -> None:
    manifest = manifest_of(folder)
    if manifest.kind != KIND:
        raise no_cache(folder)
    found = manifest.fields.get("fingerprint")
    if found != identity:
        raise UsageError(
            f"holds the cache {str(found)[:12]}, this recipe needs {identity[:12]}: teacher, views, data or kdx's "
            "version differ",
            where=folder,
            remedy="give another --cache folder (of several teachers in the order of --teacher), or remove this one",
        )
    stored = manifest.fields.get("storage")
    if storage not in (None, stored):
        raise UsageError(
            f"holds the same cache, stored as {stored}",
            where=folder,
            remedy="give another folder, or remove this one",
        )
