"""A comparison of trained students in work: its runs, several at a time, in OUT.unfinished.

A finished run is kept there, and recognised when the comparison goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdx.core.bound_pool import bound_pool
from kdx.core.claims import Claim, claim
from kdx.core.errors import SetupError, UsageError
from kdx.core.folders import MANIFEST, check_free, open_sealed, read_json, seal, write_atomic
from kdx.core.progress import Progress
from kdx.core.provenance import collect_provenance
from kdx.core.workspace import full_disk_said
from kdx.models.checkpoint import RUN_KIND

IDENTITY = "comparison.json"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Task:
    """One training run: a method at a seed. settings: of the recipe, as `--set` takes them."""

    method: str
    seed: int
    settings: tuple[str, ...]


def run_all(run: Callable[[Task], Result], tasks: list[Task], jobs: int, progress: Progress) -> list[Result]:
    """What each task gives, in their order, so many at a time in processes of their own.

    run: can be pickled. Raises SetupError when a process is killed.
    """
    with bound_pool(jobs) as pool:
        pending: dict[Future[Result], int] = {pool.submit(run, task): i for i, task in enumerate(tasks)}
        results: dict[int, Result] = {}
        try:
            for done in as_completed(pending):
                results[pending[done]] = done.result()
                progress(len(results), len(tasks), tasks[pending[done]].method)
        except BrokenProcessPool:
            raise SetupError(
                "the process of a run was killed, as a machine does when its memory is used up",
                remedy="choose fewer --jobs, or a smaller batch_size",
            ) from None
    return [results[number] for number in range(len(tasks))]


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
