"""A comparison in work: OUT.unfinished, in which a finished run is kept and recognised when it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from kdx.core.claims import Claim, claim
from kdx.core.errors import UsageError
from kdx.core.folders import MANIFEST, check_free, open_sealed, read_json, seal, write_atomic
from kdx.core.provenance import collect_provenance
from kdx.core.workspace import full_disk_said
from kdx.models.checkpoint import RUN_KIND

IDENTITY = "comparison.json"


@contextlib.contextmanager
def work_on_comparison(
    out: Path, kind: str, identity: dict[str, Any], *, overwrite: bool = False
) -> Generator[Path]:
    """Yields the folder to fill, with what an interrupted comparison has finished in it; seals it at `out`.

    identity: what must be the same for finished runs to count, for JSON. Raises UsageError for an unfinished comparison
    of something else, unless it may be overwritten, and for one on which another process works.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link that lies at `out`
    check_free(out, kind, overwrite=overwrite)
    place = out.with_name(f"{out.name}.unfinished")
    place.mkdir(parents=True, exist_ok=True)
    with claim(place / "lock") as found, full_disk_said(out):
        if found is Claim.TAKEN:
            raise UsageError(
                "another process works here", where=place, remedy="wait, or choose another --out"
            )
        folder = _prepared(place, identity, overwrite=overwrite)
        try:
            yield folder
        except BaseException:
            if not any(folder.rglob(MANIFEST)):
                shutil.rmtree(place, ignore_errors=True)
            raise
        seal(folder, out, kind, collect_provenance(), {}, overwrite=overwrite)
        shutil.rmtree(place, ignore_errors=True)


def finished_seconds(run: Path) -> float | None:
    """How long a run took that is finished; None for one that is not. Raises DataError for a damaged one."""
    return float(open_sealed(run, RUN_KIND).fields["seconds"]) if (run / MANIFEST).exists() else None


def _prepared(place: Path, identity: dict[str, Any], *, overwrite: bool) -> Path:
    said, folder = place / IDENTITY, place / "new"
    if said.exists() and read_json(said) != json.loads(json.dumps(identity)):
        if not overwrite:
            raise UsageError(
                "is an unfinished comparison of something else",
                where=place,
                remedy="give the same recipe, settings, pairs and teacher, or --overwrite to begin anew",
            )
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    write_atomic(said, json.dumps(identity))
    return folder
