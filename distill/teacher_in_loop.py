"""A teacher that is asked at each step: nothing is stored, so every epoch may show other crops.

The step then costs the teacher's forward pass, which a cache computes once for all runs.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch

from kdx.core.ahead import decoding_pool
from kdx.core.preprocess import Preprocess
from kdx.core.provenance import cpu_count
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Batch
from kdx.data.pixels import read_pixels
from kdx.data.shards import ShardSet
from kdx.data.views import ViewConfig, choose_view

from .objective import Embeddings
from .teacher_cache import Teacher


class TeacherInLoop:
    """Sees the views and captions that the student sees, through its own preprocessing and tokenizer.

    student: the student's preprocessing; where the teacher's differs by mean and std alone, both see the same pixels
    and an image is decoded once.
    """

    reused, online = False, True

    def __init__(self, teacher: Teacher, samples: ShardSet, views: ViewConfig, student: Preprocess) -> None:
        self._teacher, self._samples, self._views = teacher, samples, views
        # a teacher sees exact pixels, as in a cache, whatever is spared for the student
        exact = views.decode == "exact"
        self._same_pixels = exact and _geometry(teacher.preprocess) == _geometry(student)
        self._read_tokens = CaptionTokens.of(samples, teacher.spec, teacher.tokenizer)

    @property
    def embed_dim(self) -> int:
        return self._teacher.spec.embed_dim

    def of_batch(self, batch: Batch, device: torch.device) -> Embeddings:
        """As every TeacherSource. Raises DataError for an image that no longer decodes."""
        spec = self._teacher.spec
        pixels = batch.pixels if self._same_pixels else self._pixels(batch.rows, batch.views)
        image = self._teacher.embed_pixels(pixels)
        pairs = zip(batch.rows.tolist(), batch.captions.tolist(), strict=True)
        tokens = [self._read_tokens(row, caption).tolist() for row, caption in pairs]
        text = self._teacher.embed_tokens(spec.pad(tokens))
        return Embeddings(
            image.to(device),
            text.to(device),
            torch.full((), spec.logit_scale, device=device),
            # a specification says 0 where a model has none
            torch.full((), spec.logit_bias, device=device) if spec.logit_bias else None,
        )

    def _pixels(self, rows: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """[B, S, S, 3]"""
        with decoding_pool(cpu_count()) as pool:
            return np.stack(list(pool.map(self._read, rows.tolist(), views.tolist())))

    def _read(self, row: int, view: int) -> npt.NDArray[np.uint8]:
        choose = functools.partial(choose_view, self._views, int(self._samples.key_digests[row]), view)
        return read_pixels(self._samples.image(row), self._teacher.preprocess, choose)


def _geometry(preprocess: Preprocess) -> tuple[int, str, str]:
    """What decides the uint8 pixels of a view."""
    return preprocess.image_size, preprocess.interpolation, preprocess.resize_mode
