"""The preprocessing that a foreign file states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, UsageError

from ..architectures import preprocess_of
from ..open_clip_architectures import PREPROCESS_FIELDS


def read_preprocess(settings: Any, where: Path) -> dict[str, Any]:
    """What of a file's settings is an architecture's `preprocess_cfg`. Raises DataError if it cannot be followed."""
    if not isinstance(settings, dict):
        raise DataError("its preprocessing is no table", where=where, remedy="get the file again")
    given = {field: settings[field] for field in PREPROCESS_FIELDS if settings.get(field) is not None}
    for field in ("mean", "std"):
        if field in given and not _is_rgb(given[field]):
            raise DataError(
                f"{field} = {given[field]!r} is not three numbers", where=where, remedy="get the file again"
            )
    for field in ("interpolation", "resize_mode"):
        if field in given and not isinstance(given[field], str):
            raise DataError(
                f"{field} = {given[field]!r} is no name", where=where, remedy="get the file again"
            )
    try:
        preprocess_of({"vision_cfg": {"image_size": 1}, "preprocess_cfg": given})
    except UsageError as error:
        raise DataError(error.what, where=where, remedy=f"correct the file: {error.remedy}") from None
    return given


def _is_rgb(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )
