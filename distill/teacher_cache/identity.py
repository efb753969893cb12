"""What a teacher cache is the cache of: teacher, views and data, as one digest; and how large it is."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Protocol

import torch

from kdx.core.digests import value_digest
from kdx.core.encoder import EncoderSpec, IntArray
from kdx.core.errors import UsageError
from kdx.core.preprocess import Preprocess
from kdx.core.tokenizers import Tokenizer
from kdx.data.shards import ShardSet
from kdx.data.views import RULES as VIEW_RULES, ViewConfig

from .storage import BYTES, SCALE_BYTES, Pixels, Storage

KIND = "teacher-cache"
FORMAT = 2
ANEW = "remove the cache, so that it is made anew"


class Teacher(Protocol):
    """Who says what lies in a cache; `teacher_model.py` has the one of a checkpoint. precision: of its arithmetic."""

    spec: EncoderSpec
    preprocess: Preprocess
    tokenizer: Tokenizer
    precision: str

    def embed_pixels(self, pixels: Pixels) -> torch.Tensor:
        """pixels: uint8 [B, S, S, 3]. Returns float32 [B, D], unit rows, on any device."""
        ...

    def embed_tokens(self, tokens: IntArray) -> torch.Tensor:
        """tokens: int [B, L], as `spec.pad` gives them. Returns float32 [B, D], unit rows, on any device."""
        ...


def fingerprint(teacher: Teacher, samples: ShardSet, views: ViewConfig) -> str:
    """The identity of a cache: teacher, its preprocessing and tokenizer, the views and the data.

    Preprocessing, tokenizer and views as this kdx applies them, whatever the one that made the teacher did. How the
    embeddings are stored is no part of it: a recipe takes them in any form.
    """
    return value_digest(
        {
            "format": FORMAT,
            "model": teacher.spec.model_digest,
            "preprocess": teacher.preprocess.digest,
            "tokenizer": teacher.tokenizer.digest,
            "views": [VIEW_RULES, views.model_dump(mode="json", exclude={"decode"})],  # the student's alone
            "data": samples.pairs_digest,
        }
    )


def file_names(samples: ShardSet) -> list[str]:
    """Of the files of a cache, one a shard; numbered where shards of several folders have the same name."""
    stems = [PurePath(shard.name).stem for shard in samples.shards]
    if len(set(stems)) < len(stems):
        stems = [f"{number:05d}-{stem}" for number, stem in enumerate(stems)]
    return [f"{stem}.safetensors" for stem in stems]


def cache_size(embed_dim: int, pairs: int, views: int, captions: int, storage: Storage = "fp16") -> int:
    """About how many bytes a cache has: the embeddings of all views and captions, and an 8-byte key a pair."""
    row = BYTES[storage] * embed_dim + (SCALE_BYTES if storage == "int8" else 0)
    return row * (pairs * views + captions) + 8 * pairs


def no_cache(folder: Path) -> UsageError:
    return UsageError(
        "is no teacher cache", where=folder, remedy="give the folder of one, or a new place, to --cache"
    )
