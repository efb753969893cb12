"""Tar shards of another tool, such as img2dataset's 00000.tar, or of kdx: to hold a part out or pack them anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError

from ..drafts import group_members, read_draft
from ..places import numbered_shards
from ..sample import BadSample, LabelFinder
from ..set_folder import shard_files
from ..tar_index import TarFile
from .folder import SPLITS
from .keys import key_of
from .source import LeaveOut, Row


class Shards:
    """An image is called by its shard, where it begins, its size and its key."""

    def __init__(self, folder: Path) -> None:
        from ..shards import read_classes  # with all that opens shards, which other sources do not need

        self.place = folder
        self.classes = read_classes(folder)
        self._tars: dict[str, TarFile] = {}

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        labels = LabelFinder(self.classes)
        for path in _tars(self.place):
            file = self._tars[path.name] = TarFile.at(path)
            split = path.name.partition("-")[0]
            groups, _ = group_members(file)
            for key, members in groups.items():
                try:
                    draft = read_draft(key, file, members)
                    label = None if draft.cls is None else str(labels.find(draft.cls))
                except BadSample as reason:
                    leave_out(f"{path.name}: {key}", str(reason))
                    continue
                image = f"{path.name}:{draft.image.offset}:{draft.image.size}:{key}"
                yield Row(
                    image, key_of(f"{key}.image"), draft.captions, label, split if split in SPLITS else None
                )

    def read(self, image: str) -> bytes:
        """Raises DataError if the shard has changed since its rows were read."""
        name, offset, size, _ = image.split(":", 3)
        return self._tars[name].read(int(offset), int(size))

    def state(self, image: str) -> tuple[int, int] | None:
        file = self._tars[image.partition(":")[0]]
        return file.size, file.modified_ns

    def name(self, image: str) -> str:
        name, _, _, key = image.split(":", 3)
        return f"{name}: {key}"


def is_shards(folder: Path) -> bool:
    return bool(_tars(folder))


def _tars(folder: Path) -> list[Path]:
    """Those with a split in their names, or else the numbered ones. Raises DataError for tars with other names."""
    tars = shard_files(folder) or numbered_shards(folder)
    other = next(iter(sorted(folder.glob("*.tar"))), None)
    if not tars and other is not None:
        raise DataError(
            f"{other.name} has not the name of a shard",
            where=folder,
            remedy="call the shards 00000.tar, 00001.tar …",
        )
    return tars
