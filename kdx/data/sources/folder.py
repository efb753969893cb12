"""A folder of images: a text beside each, or a class a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.image_suffixes import SUFFIXES, UNREAD_SUFFIXES

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
            texts = {name[:-4]: name for name in files if is_text(name)}
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
                    caption = self._caption(folder + texts[stem])
                except Unusable as reason:
                    leave_out(image, str(reason))
                else:
                    yield Row(image, key_of(image), (caption,), None, split_of(folder))
            for stem in sorted(texts.keys() - used):
                leave_out(folder + texts[stem], "there is no image beside it")

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
                elif not _is_unicode(folder):
                    leave_out(folder + name, "the name of its class's folder is not UTF-8 text")
                else:
                    yield Row(folder + name, key_of(folder + name), (), "/".join(names), split)


def open_folder(folder: Path) -> CaptionedFolder | ClassFolders:
    """Which of both it is. Raises DataError for a folder that says nothing about its images."""
    pictures = texts = in_folders = False
    for place, files in walk(folder):
        stems = {os.path.splitext(name)[0] for name in files if is_picture(name)}  # noqa: PTH122
        pictures = pictures or bool(stems)
        in_folders = in_folders or (bool(stems) and place not in {f"{split}/" for split in SPLITS} | {""})
        if any(is_text(name) and name[:-4] in stems for name in files):
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
    """(path in `folder` with a slash behind it, names of its files), in an order that stays; hidden ones left out.

    Links are followed, save to a folder that they lie in.
    """
    top = os.fspath(folder)
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]  # with the folders above each
    while waiting:
        inside, above = waiting.pop()
        try:
            status = os.stat(f"{top}/{inside}")  # noqa: PTH116 - there may be 100,000 folders
            here = status.st_dev, status.st_ino
            if here in above:
                continue
            files, folders = _entries(f"{top}/{inside}")
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=f"{top}/{inside}", remedy="check its permissions"
            ) from None
        yield inside, files
        waiting += [(f"{inside}{name}/", above | {here}) for name in reversed(folders)]


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURES  # noqa: PTH122


def is_text(name: str) -> bool:
    return name[-4:].lower() == ".txt"


def split_of(folder: str) -> str | None:
    """The split in which a path lies, by the first of its folders."""
    first = folder.partition("/")[0].lower()
    return first if first in SPLITS else None


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads to itself is none, and no reason to refuse what lies beside it."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(place: str) -> tuple[list[str], list[str]]:
    """The names of files and of folders, each in order."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(place) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)
