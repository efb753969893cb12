"""What an error of fsspec means: each protocol's package has classes of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdx.core.errors import DataError, KdxError, SetupError
from kdx.core.urls import shown

REFUSED, CHANGED, GONE, PASSING = {401, 403, 407}, {412, 416}, {404, 410}, {408, 425, 429}
ABOUT_CREDENTIALS = re.compile(r"credential|auth|token", re.IGNORECASE)
NOT_THERE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    KeyError,
)  # the last in fsspec's memory://


class CutShort(Exception):
    """An answer has fewer bytes than were asked for."""


@dataclass(frozen=True)
class Fault:
    """passing: whether it may be gone when one asks again. absent: whether there is no such file, at least for us."""

    error: KdxError
    passing: bool = False
    absent: bool = False


def fault_of(error: Exception, url: str) -> Fault:
    """Nothing of what it says is secret."""
    cause = error
    while isinstance(cause, FileNotFoundError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__  # over http everything that goes wrong is called "not found"
    status = _status(cause)
    if isinstance(cause, NOT_THERE) or status in GONE:
        return Fault(DataError("there is no such file", where=url, remedy="check the URL"), absent=True)
    if status in REFUSED or isinstance(cause, PermissionError) or _is_about_credentials(cause, status):
        said = f" ({status})" if status else ""
        remedy = "give this machine the credentials that the protocol's package looks for (docs/data.md)"
        return Fault(SetupError(f"access is refused{said}", where=url, remedy=remedy), absent=True)
    if status in CHANGED:
        return Fault(changed(url))
    if status is not None and 400 <= status < 500 and status not in PASSING:
        return Fault(DataError(f"the server answers {status}", where=url, remedy="check the URL"))
    remedy = "check the network and the URL, and run again"
    return Fault(
        SetupError(f"access fails: {_reason(cause, status)}", where=url, remedy=remedy), passing=True
    )


def changed(url: str) -> DataError:
    return DataError(
        "has changed since it was opened", where=url, remedy="run again, and leave the shards alone"
    )


def _status(error: Exception) -> int | None:
    """Of HTTP: aiohttp, httpx and requests, botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for status in (getattr(error, "status", None), getattr(response, "status_code", None), response):
        if isinstance(status, int):
            return status
    return None


def _is_about_credentials(error: Exception, status: int | None) -> bool:
    return status is None and ABOUT_CREDENTIALS.search(type(error).__name__) is not None


def _reason(error: Exception, status: int | None) -> str:
    if isinstance(error, TimeoutError):  # fsspec's and asyncio's are such
        return "there is no answer in time"
    if status is not None:
        return f"the server answers {status}"
    if isinstance(error, CutShort) or "Payload" in type(error).__name__:
        return "the answer is cut short"
    said = shown(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
