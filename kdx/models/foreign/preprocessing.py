"""The preprocessing that a foreign file states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdx.core.config import parse
from kdx.core.errors import DataError, UsageError

from ..architecture import PreprocessConfig


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
