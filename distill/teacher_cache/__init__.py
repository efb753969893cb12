"""The frozen teacher's embeddings of every view and caption, computed once and sealed: one file a shard."""

from __future__ import annotations

from .elsewhere import is_stored, made_in
from .identity import KIND, Teacher, cache_size, fingerprint
from .making import open_cache
from .reading import TeacherCache
from .storage import CachedShard, Storage
from .work import is_whole

__all__ = [
    "KIND",
    "CachedShard",
    "Storage",
    "Teacher",
    "TeacherCache",
    "cache_size",
    "fingerprint",
    "is_stored",
    "is_whole",
    "made_in",
    "open_cache",
]
