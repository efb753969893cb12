"""A teacher that is asked at each step: nothing is stored, so every epoch may show other crops.

The step then costs the teacher's forward pass, which a cache computes once for all runs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from kdx.core.preprocess import Preprocess
from kdx.core.provenance import cpu_count
from kdx.core.tokenizer import Tokenizer
from kdx.data.loader import Batch
from kdx.data.pixels import read_pixels
from kdx.data.shards import ShardSet
from kdx.data.views import ViewConfig, choose_view
from kdx.models.clip_vocabulary import clip_tokenizer

from .objective import Embeddings
from .teacher_cache import Teacher


class TeacherInLoop:
    """Sees the views and captions that the student sees, through its own preprocessing and tokenizer.

    student: the student's preprocessing; where the teacher's differs by mean and std alone, both see the same pixels
    and an image is decoded once.
    """

    reused = False

    def __init__(self, teacher: Teacher, samples: ShardSet, views: ViewConfig, student: Preprocess) -> None:
        self._teacher, self._samples, self._views = teacher, samples, views
        self._same_pixels = _geometry(teacher.preprocess) == _geometry(student)
        self._same_tokens = teacher.tokenizer.digest == clip_tokenizer().digest
        self._pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="kdx-decode")

    @property
    def embed_dim(self) -> int:
        return self._teacher.spec.embed_dim

    def of_batch(self, batch: Batch, device: torch.device) -> Embeddings:
        """As every TeacherSource. Raises DataError for an image that no longer decodes."""
        spec = self._teacher.spec
        pixels = batch.pixels if self._same_pixels else self._pixels(batch.rows, batch.views)
        image = self._teacher.embed_pixels(pixels)
        text = self._teacher.embed_tokens(Tokenizer.pad(self._tokens(batch.rows, batch.captions)))
        return Embeddings(
            image.to(device),
            text.to(device),
            torch.full((), spec.logit_scale, device=device),
            torch.full((), spec.logit_bias, device=device)
            if spec.logit_bias
            else None,  # 0 where a model has none
        )

    def _pixels(self, rows: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """[B, S, S, 3]"""
        return np.stack(list(self._pool.map(self._read, rows.tolist(), views.tolist())))

    def _read(self, row: int, view: int) -> npt.NDArray[np.uint8]:
        choose = functools.partial(choose_view, self._views, int(self._samples.key_digests[row]), view)
        return read_pixels(self._samples.image(row), self._teacher.preprocess, choose)

    def _tokens(
        self, rows: npt.NDArray[np.int64], captions: npt.NDArray[np.int64]
    ) -> Sequence[Sequence[int]]:
        """Of each pair, not padded."""
        length, pairs = self._teacher.spec.context_length, zip(rows.tolist(), captions.tolist(), strict=True)
        if self._same_tokens:
            return [self._samples.tokens(row, caption, length).tolist() for row, caption in pairs]
        return [
            self._teacher.tokenizer.encode(self._samples.captions(row)[caption], length)
            for row, caption in pairs
        ]


def _geometry(preprocess: Preprocess) -> tuple[int, str, str]:
    """What decides the uint8 pixels of a view."""
    return preprocess.image_size, preprocess.interpolation, preprocess.resize_mode
