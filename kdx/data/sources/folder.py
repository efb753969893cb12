"""A folder of images: a text beside each, or a class a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.images import SUFFIXES, UNREAD_SUFFIXES

from ..drafts import MAX_TEXT
from .files import OfFiles
from .keys import key_of
from .source import LeaveOut, Row, Unusable

PICTURES = (*SUFFIXES, *UNREAD_SUFFIXES)
SPLITS = {"train", "val", "valid", "validation", "dev", "test"}


class _Folder(OfFiles):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [folder])


class CaptionedFolder(_Folder):
    """cat.jpg and cat.txt beside it, whose text is its caption; in subfolders too. In `train/`, `val/` and the like
    at the top lie splits."""

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        for folder, files in walk(self.place):
            texts = {name[:-4] for name in files if name.endswith(".txt")}
            used: set[str] = set()
            for name in files:
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - Path takes ten times as long
                if suffix.lower() not in PICTURES:
                    continue
                image = folder + name
                if stem not in texts:
                    leave_out(image, f"there is no {stem}.txt beside it")
                    continue
                used.add(stem)
                try:
                    caption = self._caption(f"{folder}{stem}.txt")
                except Unusable as reason:
                    leave_out(image, str(reason))
                else:
                    yield Row(image, key_of(image), (caption,), None, split_of(folder))
            for stem in sorted(texts - used):
                leave_out(f"{folder}{stem}.txt", "there is no image beside it")

    def _caption(self, text: str) -> str:
        content = self._files.read(text)
        if len(content) > MAX_TEXT:
            raise Unusable(f"its .txt is larger than {MAX_TEXT} bytes")
        try:
            return content.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise Unusable("its .txt is not UTF-8 text") from None


class ClassFolders(_Folder):
    """cats/1.jpg, dogs/2.jpg: the folder is the class. `train/cats/1.jpg` lies in a split, too."""

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        for folder, files in walk(self.place):
            parts = folder.split("/")[:-1]
            split = split_of(folder)
            names = parts[1:] if split else parts
            for name in files:
                if not is_picture(name):
                    continue
                if not names:
                    leave_out(folder + name, "lies in no folder of a class")
                else:
                    yield Row(folder + name, key_of(folder + name), (), "/".join(names), split)


def open_folder(folder: Path) -> CaptionedFolder | ClassFolders:
    """Which of both it is. Raises DataError for a folder that says nothing about its images."""
    pictures = texts = in_folders = False
    for place, files in walk(folder):
        stems = {os.path.splitext(name)[0] for name in files if is_picture(name)}  # noqa: PTH122
        pictures = pictures or bool(stems)
        in_folders = in_folders or (bool(stems) and place not in {f"{split}/" for split in SPLITS} | {""})
        if any(name.endswith(".txt") and name[:-4] in stems for name in files):
            texts = True
            break
    if texts:
        return CaptionedFolder(folder)
    if in_folders:
        return ClassFolders(folder)
    raise DataError(
        "holds pictures, but nothing says what they show" if pictures else "holds no pictures",
        where=folder,
        remedy="give --captions FILE (a table or COCO's JSON), a .txt beside each picture, or a folder for each class",
    )


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(path in `folder` with a slash behind it, names of its files), in an order that stays; hidden ones left out."""
    yield from _walk(os.fspath(folder), "")


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURES  # noqa: PTH122


def split_of(folder: str) -> str | None:
    """The split in which a path lies, by the first of its folders."""
    first = folder.partition("/")[0].lower()
    return first if first in SPLITS else None


def _walk(top: str, inside: str) -> Iterator[tuple[str, list[str]]]:
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(f"{top}/{inside}") as entries:
            for entry in entries:
                if entry.name.startswith(".") or (
                    entry.is_symlink() and _holds(entry.path, f"{top}/{inside}")
                ):
                    continue
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=f"{top}/{inside}", remedy="check its permissions"
        ) from None
    yield inside, sorted(files)
    for name in sorted(folders):
        yield from _walk(top, f"{inside}{name}/")


def _holds(link: str, folder: str) -> bool:
    """Whether a link leads to a folder above itself, and so round in a circle."""
    return os.path.realpath(folder).startswith(os.path.realpath(link))
