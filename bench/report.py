"""The report of a chain: report.json for programs, report.html for people, report-data.json to render it again.

report.html needs nothing but itself: no network, no scripts, pictures inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError
from kdx.core.folders import read_json, write_atomic

from .page import render_page
from .pictures import shrink
from .schema import SCHEMA, ClassifyExample, ReportData, SearchExample, check_data, check_report

REPORT, DATA, PAGE = "report.json", "report-data.json", "report.html"


def write_report(
    report: Mapping[str, Any],
    folder: Path,
    *,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    searches: Iterable[SearchExample] = (),
    classifications: Iterable[ClassifyExample] = (),
) -> Path:
    """Writes report.json, report-data.json and report.html to `folder`; returns the page's path.

    report: as kdx.bench.schema.Report says; `schema` and `created` are added. curves: (step, loss) by run; only
    losses of one kind compare, so give the task's loss alone for teacher, baseline and distilled.

    Raises DataError for a report that does not fit the schema or a picture that does not decode, and writes
    nothing then.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {"schema": SCHEMA, "created": created, **report}
    checked = check_report(whole, folder / REPORT)
    text = _to_json(whole, folder / REPORT)
    data = ReportData(
        curves={name: list(curve) for name, curve in curves.items()},
        searches=[replace(search, images=[shrink(image) for image in search.images]) for search in searches],
        classifications=[replace(example, image=shrink(example.image)) for example in classifications],
    )
    written = data.to_json()
    page = render_page(checked, check_data(written, folder / DATA))
    write_atomic(folder / REPORT, text)
    write_atomic(folder / DATA, written)
    write_atomic(folder / PAGE, page)
    return folder / PAGE


def render_report(folder: Path) -> Path:
    """Writes report.html again from report.json and report-data.json beside it; returns its path.

    Raises DataError if either is missing or damaged.
    """
    report = check_report(read_json(folder / REPORT), folder / REPORT)
    try:
        content = (folder / DATA).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}",
            where=folder / DATA,
            remedy="take the whole folder as it was written",
        ) from None
    write_atomic(folder / PAGE, render_page(report, check_data(content, folder / DATA)))
    return folder / PAGE


def _to_json(report: Mapping[str, Any], where: Path) -> str:
    try:
        return json.dumps(report, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot be written as JSON: {error}",
            where=where,
            remedy="give finite numbers, strings and lists",
        ) from None
