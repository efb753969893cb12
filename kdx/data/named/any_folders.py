"""Any folder with a folder a class, called by the class's name: `cats/1.jpg`, `dogs/2.jpg`.

Labels are in the order of the names, as torchvision's ImageFolder has it; folders that are called by numbers are in the
order of these. For a prompt underscores become spaces.
"""

from __future__ import annotations

import os
from pathlib import Path

from kdx.core.errors import DataError

from .class_folders import image_files, subfolders
from .image_list import Entry, Listing, PlainFile
from .table import SetRecord


def read_any_folders(record: SetRecord, root: Path) -> Listing | None:
    """None where there are no folders. Raises DataError for a folder without images."""
    folders = subfolders(root)
    if not folders:
        return None
    numbered = all(name.isascii() and name.isdigit() for name in folders)
    ordered = sorted(folders, key=lambda name: (int(name), name)) if numbered else sorted(folders)
    entries: list[Entry] = []
    for label, folder in enumerate(ordered):
        files = image_files(root / folder)
        if not files:
            raise DataError(
                "the class folder holds no images", where=root / folder, remedy="fill or remove the folder"
            )
        entries += [Entry(os.path.relpath(f.path, root), PlainFile(f.path), label) for f in files]
    return Listing(entries, classes=[name.replace("_", " ") for name in ordered])


def expected_any(record: SetRecord) -> str:
    return "CLASS/*.jpg"
