"""The texts beside the shards of a set: one entry a line."""

from __future__ import annotations

from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.urls import url_of

from .places import Place

CLASSES = "classes.txt"
TEMPLATES = "templates.txt"


def find_text(place: Path, name: str) -> Path:
    """The file of this name in the first folder of a place that has one, which may be none."""
    folders = Place.parse(place).folders
    return next((folder / name for folder in folders if is_there(folder / name)), folders[0] / name)


def is_there(path: Path) -> bool:
    """Also at a URL."""
    return path.exists() if url_of(path) is None else _read(path) is not None


def read_templates(place: Path) -> list[str] | None:
    """Zero-shot prompts from templates.txt, one a line, each with {} for the class; None without the file.

    Raises DataError if it is malformed.
    """
    from kdx.core.requests import check_templates  # with NumPy, which whoever writes sets does not need

    path = find_text(place, TEMPLATES)
    templates = read_lines(path)
    try:
        return None if templates is None else check_templates(templates)
    except UsageError as error:
        raise DataError(error.what, where=path, remedy=error.remedy) from None


def read_lines(path: Path) -> list[str] | None:
    """The lines of a text file without surrounding spaces; None without the file. Raises DataError."""
    try:
        content = _read(path)
        if content is None:
            return None
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=path, remedy="save it as UTF-8 text") from None
    lines = [line.strip() for line in text.strip().split("\n")]
    if not all(lines):
        raise DataError("has an empty line", where=path, remedy="one entry a line")
    return lines


def _read(path: Path) -> bytes | None:
    """None without the file."""
    if (url := url_of(path)) is not None:
        from .remote.files import read_text

        return read_text(url)
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
