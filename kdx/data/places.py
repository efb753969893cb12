"""Where the shards of a split lie.

A place is a folder; its shards are train-*.tar, val-*.tar or test-*.tar, or 00000.tar … as img2dataset writes them,
which are a train split. They may lie in subfolders.
"""

from __future__ import annotations

from pathlib import Path

from kdx.core.errors import UsageError

# split → how its shards begin, the first found counts: who has test shards alone scores on them
SPLITS = {"train": ("train",), "val": ("val", "test"), "test": ("test",)}


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split in their order; none if there are none. Raises UsageError for an unknown split."""
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", remedy=f"use {' or '.join(SPLITS)}")
    for prefix in SPLITS[split]:
        paths = sorted(folder.glob(f"{prefix}-*.tar"))
        if paths:
            return paths
    return numbered_shards(folder) if split == "train" else []


def splits_there(folder: Path) -> dict[str, list[Path]]:
    """The shards of each split, every shard once: test-*.tar without val-*.tar are those of "val"."""
    paths = {split: shard_paths(folder, split) for split in SPLITS}
    return {
        split: found for split, found in paths.items() if found and (split != "test" or found != paths["val"])
    }


def numbered_shards(folder: Path) -> list[Path]:
    """Those that have no split in their names, as img2dataset writes them (00000.tar): they are train shards."""
    return sorted(
        (path for path in folder.glob("[0-9]*.tar") if path.stem.isdecimal()),
        key=lambda path: (int(path.stem), path.stem),
    )
