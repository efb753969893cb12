"""What is known of a cache, whole or in work, and whether its files are what they were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.progress import Progress, silent
from kdx.core.urls import shown, url_of
from kdx.data.remote.files import digest_of

from .elsewhere import files_at, is_stored, manifest_of
from .identity import KIND, no_cache
from .work import CacheWork, Gone, read_plan

SHOWN = (
    "storage",
    "precision",
    "fingerprint",
    "teacher",
    "data",
    "views",
    "captions",
    "bad_images",
    "seconds",
)


@dataclass(frozen=True)
class Verified:
    """Names of the files that are as they were written, that are not, and that are not there."""

    same: list[str]
    changed: list[str]
    missing: list[str]


def describe_cache(folder: Path) -> dict[str, Any]:
    """For `kdx cache info`. shards_done of shards are finished; all of a whole cache. Raises UsageError, DataError."""
    facts = _in_work(folder) or _whole(folder)
    if url_of(folder) is None:
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    else:
        size = sum(file.size for file in files_at(folder, list(manifest_of(folder).digest)))
    return {"folder": shown(folder), **facts, "bytes": size}


def verify_cache(folder: Path, *, progress: Progress = silent) -> Verified:
    """Reads all files that are finished and compares their digests. Raises UsageError for what is no cache."""
    verified = Verified([], [], [])
    digests = _digests(folder)
    for number, (name, digest) in enumerate(sorted(digests.items()), 1):
        if (found := digest_of(folder / name)) is None:
            verified.missing.append(name)
        else:
            (verified.same if found == digest else verified.changed).append(name)
        progress(number, len(digests))
    return verified


def _digests(folder: Path) -> dict[str, str]:
    if (work := _work(folder)) is not None:
        return {name: record.digest for name, record in work.records().items()}
    if not is_stored(folder) or (manifest := manifest_of(folder)).kind != KIND:
        raise no_cache(folder)
    return manifest.digest


def _in_work(folder: Path) -> dict[str, Any] | None:
    if (work := _work(folder)) is None:
        return None
    plan, records = work.plan, work.records().values()
    counted = {
        name: sum(getattr(each, name) for each in records) for name in ("captions", "bad_images", "seconds")
    }
    return {
        "whole": False,
        "shards": len(plan.files),
        "shards_done": len(records),
        **{name: getattr(plan, name) for name in SHOWN if hasattr(plan, name)},
        **counted,
    }


def _whole(folder: Path) -> dict[str, Any]:
    if (manifest := manifest_of(folder)).kind != KIND:
        raise no_cache(folder)
    count = len(manifest.digest)
    said = {name: manifest.fields[name] for name in SHOWN if name in manifest.fields}
    # the first caches did not say how they are stored: all were fp16
    return {"whole": True, "shards": count, "shards_done": count, "storage": "fp16", **said}


def _work(folder: Path) -> CacheWork | None:
    try:
        return CacheWork(folder, read_plan(folder))
    except Gone:
        return None
