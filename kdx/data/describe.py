"""What is in a set: counts, image sizes, classes and skipped samples, as one JSON-serialisable record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdx.core.progress import Stages, silent_stages
from kdx.core.urls import shown

from .index.shard_index import CONTEXT
from .places import Place, compressed_shards, splits_there
from .sampling import spread
from .shards import ShardSet, open_split, read_classes, read_templates

PROBED = 16  # images whose size is read


def open_splits(folder: Path, *, stages: Stages = silent_stages) -> dict[str, ShardSet]:
    """The splits that there are, whatever is wrong with their samples. Raises DataError if there is none."""
    splits = {
        split: open_split(folder, split, need_captions=False, min_good_share=0, stages=stages)
        for split in splits_there(folder)
    }
    if not splits:
        open_split(folder, "train")  # raises, and says which names are looked for
    return splits


def describe_set(folder: Path, splits: Mapping[str, ShardSet] | None = None) -> dict[str, Any]:
    """splits (by name: shards, samples, captions, distinct_captions, caption_words, caption_tokens, labelled,
    image_sizes, skipped, others), compressed, classes, templates. caption_words: min, median and max of the words of a
    caption; caption_tokens: the same of CLIP's tokens, of which an index keeps 77, and how many have all of these
    (full). others counts by kind what is no part of a sample. compressed: shards beside the others, which are not read.
    image_sizes counts "WIDTHxHEIGHT" over 16 images spread over the split.

    splits: those of `open_splits`, where they are open already. Raises DataError if the folder has no shards or one
    is no whole tar.
    """
    splits = open_splits(folder) if splits is None else splits
    return {
        "folder": shown(folder),
        "splits": {name: _describe_split(samples) for name, samples in splits.items()},
        "compressed": _compressed(folder, splits),
        "classes": read_classes(folder),
        "templates": read_templates(folder),
    }


def _compressed(place: Path, splits: Mapping[str, ShardSet]) -> list[str]:
    beside = {shard.path.parent for samples in splits.values() for shard in samples.shards}
    folders = sorted({*Place.parse(place).folders, *beside})
    return [str(path) for folder in folders for path in compressed_shards(folder)]


def _describe_split(samples: ShardSet) -> dict[str, Any]:
    captions = [caption for row in range(len(samples)) for caption in samples.captions(row)]
    return {
        "shards": len(samples.shards),
        "samples": len(samples),
        "captions": len(captions),
        "distinct_captions": len(set(captions)),
        "caption_words": _range([len(caption.split()) for caption in captions]),
        "caption_tokens": _tokens(samples),
        "labelled": int((samples.labels >= 0).sum()),
        "image_sizes": _image_sizes(samples),
        "skipped": [{"key": key, "reason": reason} for key, reason in samples.skipped],
        "others": samples.others,
    }


def _tokens(samples: ShardSet) -> dict[str, int] | None:
    counts = [
        len(samples.tokens(row, caption, CONTEXT))
        for row in range(len(samples))
        for caption in range(samples.num_captions(row))
    ]
    found = _range(counts)
    return None if found is None else {**found, "full": sum(count == CONTEXT for count in counts)}


def _range(counts: list[int]) -> dict[str, int] | None:
    counts = sorted(counts)
    return {"min": counts[0], "median": counts[len(counts) // 2], "max": counts[-1]} if counts else None


def _image_sizes(samples: ShardSet) -> dict[str, int]:
    sizes = Counter(_image_size(samples, row) for row in spread(len(samples), PROBED))
    return dict(sizes.most_common())


def _image_size(samples: ShardSet, row: int) -> str:
    width, height = samples.image_size(row)
    return f"{width}x{height}" if width else "unreadable"
