"""Text that came with a data set or from the user: UTF-8, one line of error where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.requests import check_labels, check_templates


def read_text(path: Path) -> str:
    """Without a byte order mark. Raises DataError for a file that is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"is not UTF-8 text (byte 0x{error.object[error.start]:02x} in line {line:,})",
            where=path,
            remedy="save it as UTF-8, for example with: iconv -f latin1 -t utf-8",
        ) from None


def read_lines(path: Path) -> list[str]:
    """The lines without surrounding spaces, empty ones at the end left out. Raises DataError."""
    return [line.strip() for line in read_text(path).rstrip().splitlines()]


def read_classes(path: Path) -> list[str]:
    """Class names in label order, one a line. Raises DataError."""
    return _checked(path, lambda: check_labels(read_lines(path)))


def read_prompts(path: Path) -> list[str]:
    """Templates, one a line, with `{}` or clip-benchmark's `{c}` where the class goes. Raises DataError."""
    return _checked(path, lambda: check_templates([line.replace("{c}", "{}") for line in read_lines(path)]))


def _checked(path: Path, read: Callable[[], list[str]]) -> list[str]:
    try:
        return read()
    except UsageError as error:  # in a file it is the file's fault
        what = error.what if error.where is None else f"{error.where} {error.what}"
        raise DataError(what, where=path, remedy=error.remedy) from None
