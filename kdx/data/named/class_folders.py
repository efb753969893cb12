"""A folder a class: `val/n01440764/ILSVRC2012_val_00000293.JPEG`, ImageNet-V2's `0/…` to `999/…`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.image_suffixes import SUFFIXES
from kdx.data.sources.folder import is_folder

from .image_list import CroppedFile, Entry, Listing, PlainFile
from .table import SetRecord, class_folders

SHOWN = 3
NOT_CLASSES = ("__MACOSX", "lost+found")


def read_class_folders(record: SetRecord, root: Path) -> Listing | None:
    """None where no place at the root holds any of the set's class folders.

    Raises DataError for missing, empty and foreign ones: a part of a set is not scored as if it were the set.
    """
    names = class_folders(record)
    for place in (root / place for place in record.places):
        there = subfolders(place)
        if there & names.keys():
            _check_folders(record, place, there, list(names))
            entries = list(_entries(root, place, list(names), record.border))
            return Listing(entries, classes=list(names.values()))
    return None


def expected_folders(record: SetRecord) -> str:
    """What is looked for, for an error."""
    first = next(iter(class_folders(record)))
    return " or ".join(
        f"{first}/*.jpg" if place == "." else f"{place}/{first}/*.jpg" for place in record.places
    )


def image_files(folder: Path) -> list[os.DirEntry[str]]:
    """The pictures in a folder by name; those in its subfolders are not."""
    try:
        with os.scandir(folder) as found:
            files = [file for file in found if not file.name.startswith(".") and _is_picture(file.name)]
    except OSError as error:
        raise _unreadable(folder, error) from None
    return sorted(files, key=lambda file: file.name)


def subfolders(place: Path) -> set[str]:
    """The names of the folders in a place, save for what a system or an archive leaves there."""
    try:
        with os.scandir(place) as found:
            return {
                folder.name
                for folder in found
                if is_folder(folder) and not folder.name.startswith(".") and folder.name not in NOT_CLASSES
            }
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise _unreadable(place, error) from None


def _check_folders(record: SetRecord, place: Path, there: set[str], expected: list[str]) -> None:
    missing = [name for name in expected if name not in there]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(expected):,} class folders are missing ({_first(missing)})",
            where=place,
            remedy="unpack the archive again; a part of a set is scored with --dataset folder",
        )
    foreign = sorted(there - set(expected))
    if foreign and record.foreign == "refused":
        raise DataError(
            f"{len(foreign):,} folders are none of the set's {len(expected):,} classes ({_first(foreign)})",
            where=place,
            remedy="is it another set? if not, move these elsewhere",
        )


def _entries(root: Path, place: Path, folders: list[str], border: int) -> Iterator[Entry]:
    for label, folder in enumerate(folders):
        files = image_files(place / folder)
        if not files:
            raise DataError(
                "the class folder holds no images", where=place / folder, remedy="unpack the archive again"
            )
        for file in files:
            image = CroppedFile(file.path, border) if border else PlainFile(file.path)
            yield Entry(os.path.relpath(file.path, root), image, label)


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror}", where=folder, remedy="check its permissions")


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
