"""The preprocessing that a foreign file states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdx.core.config import parse
from kdx.core.errors import DataError, UsageError

from ..architecture import PreprocessConfig


def read_open_clip_preprocess(settings: Any, image_size: int, where: Path) -> dict[str, Any]:
    """open_clip's PreprocessCfg as an architecture's `preprocess_cfg`: each key is obeyed or refused by name.

    Raises DataError.
    """
    given = read_preprocess(settings, where)
    size = settings.get("size")
    fits = {
        "size": size is None or size == image_size or size == [image_size, image_size],
        "mode": settings.get("mode", "RGB") in ("RGB", None),
        "fill_color": given.get("resize_mode") != "longest" or not settings.get("fill_color"),
    }
    known = {*fits, *PreprocessConfig.model_fields}
    fits |= {key: value is None for key, value in settings.items() if key not in known}
    if wrong := [f"{key} = {settings[key]!r}" for key, fit in fits.items() if not fit]:
        raise DataError(
            f"prepares images in a way that kdx does not: {', '.join(wrong)} for images of {image_size} pixels",
            where=where,
            remedy="remove these keys from a copy of the file, if its model does not depend on them",
        )
    return given


def read_preprocess(settings: Any, where: Path) -> dict[str, Any]:
    """What of a file's settings is an architecture's `preprocess_cfg`. Raises DataError if it cannot be followed."""
    if not isinstance(settings, dict):
        raise DataError("its preprocessing is no table", where=where, remedy="get the file again")
    known = PreprocessConfig.model_fields
    given = {field: value for field, value in settings.items() if field in known and value is not None}
    try:
        return parse(PreprocessConfig, given, where).to_dict()
    except UsageError as error:
        raise DataError(error.what, where=where, remedy=f"correct the file: {error.remedy}") from None
