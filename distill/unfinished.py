"""A run in work: a folder beside its place, in which it can be taken up again, and from which it is sealed.

`OUT.unfinished/` holds `run.json`, what the run is; `run/`, what will lie at OUT; `state/` (run_states.py); `val/`, if
the student is scored while it trains: the best one, and what its teachers score; and `lock`, claimed by the process
that works there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdx.core.claims import Claim, claim
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import check_free, read_json, seal, write_atomic
from kdx.core.log import read_metrics
from kdx.core.workspace import full_disk_said
from kdx.models.checkpoint import RUN_KIND

from .ranks import ALONE, Ranks
from .run_states import RunStates

IDENTITY = "run.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to be the same: resolved recipe, and the digests of data and teachers.

    teacher_online: whether these are asked at each step. val: of what it is scored on, None if it is not.
    """

    recipe: dict[str, Any]
    data: str
    teachers: list[str]
    teacher_online: bool
    val: str | None = None

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of what another one, from JSON, has otherwise."""
        mine = json.loads(json.dumps(asdict(self)))
        recipe, theirs = mine.pop("recipe"), other.get("recipe", {})
        names = [f"recipe.{key}" for key in sorted({*recipe, *theirs}) if recipe.get(key) != theirs.get(key)]
        names += [name for name in mine if mine[name] != other.get(name)]
        return ["--teacher-online" if name == "teacher_online" else name for name in names]


@dataclass(frozen=True)
class RunWork:
    """An unfinished run. first_step: of the state with which it is taken up, None for a new one."""

    place: Path
    out: Path
    states: RunStates
    first_step: int | None

    @property
    def folder(self) -> Path:
        """What will lie at `out`."""
        return self.place / "run"

    def seal(self, provenance: dict[str, Any], fields: dict[str, Any], *, overwrite: bool) -> None:
        self.states.wait()
        seal(self.folder, self.out, RUN_KIND, provenance, fields, overwrite=overwrite)
        shutil.rmtree(self.place, ignore_errors=True)


def unfinished_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


def unfinished_step(out: Path) -> int | None:
    """How many steps of the unfinished run at `out` are kept; None if there is none."""
    steps = RunStates(unfinished_folder(out) / "state", ALONE).steps()
    return steps[-1] if steps else None


def check_unfinished(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises UsageError for an unfinished run that is neither to be resumed nor to be overwritten. Call before work."""
    step = unfinished_step(out)
    if step is not None and not resume and not overwrite:
        raise UsageError(
            f"is a run that stopped after {step} steps",
            where=unfinished_folder(out),
            remedy=f"the same command with --resume goes on; with --overwrite --out {out} is begun anew",
        )


@contextlib.contextmanager
def work_on_run(
    out: Path, identity: RunIdentity, ranks: Ranks, *, resume: bool, overwrite: bool
) -> Generator[RunWork]:
    """Yields the run in work at `out`: a new one, or with `resume` the one that was stopped there, if there is one.

    After an error the folder stays if there is a state in it. Raises UsageError for an unfinished run of something
    else, or one on which another process works.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link that lies at `out`
    check_free(out, RUN_KIND, overwrite=overwrite)
    check_unfinished(out, resume=resume, overwrite=overwrite)
    place = unfinished_folder(out)
    states = RunStates(place / "state", ranks)
    with contextlib.ExitStack() as working:
        if ranks.is_first:
            working.enter_context(full_disk_said(out))
            working.enter_context(_alone_at(place))
            _prepare(place, identity, resume=resume and bool(states.steps()))
            working.callback(_remove_unless_kept, place, states)
        step = max(states.steps(), default=None) if ranks.is_first else None
        step = ranks.merge({"step": step} if ranks.is_first else {})["step"]
        if ranks.is_first:
            _cut_metrics(place / "run" / METRICS, step or 0)
        yield RunWork(place, out, states, step)


@contextlib.contextmanager
def _alone_at(place: Path) -> Generator[None]:
    place.mkdir(parents=True, exist_ok=True)
    with claim(place / "lock") as found:
        if found is Claim.TAKEN:
            raise UsageError(
                "another process trains here", where=place, remedy="wait for it, or choose another --out"
            )
        yield


def _prepare(place: Path, identity: RunIdentity, *, resume: bool) -> None:
    if resume:
        if not (place / IDENTITY).is_file():
            raise DataError(
                f"has no {IDENTITY}, so it is no unfinished run",
                where=place,
                remedy="remove it, and begin anew",
            )
        found = identity.differences(read_json(place / IDENTITY))
        if found:
            raise UsageError(
                f"is another run: {', '.join(found)} differ",
                where=place,
                remedy="give the options that it was begun with, or --overwrite without --resume",
            )
        return
    for folder in (place / "run", place / "state", place / "val"):
        shutil.rmtree(folder, ignore_errors=True)
    (place / "run").mkdir()
    write_atomic(place / IDENTITY, json.dumps(asdict(identity)))


def _remove_unless_kept(place: Path, states: RunStates) -> None:
    states.wait()
    if not states.steps():
        shutil.rmtree(place, ignore_errors=True)


def _cut_metrics(file: Path, step: int) -> None:
    """Keeps the lines up to this step: those after it are written again."""
    if not file.exists():
        return
    try:
        lines = [line for line in read_metrics(file) if line["step"] <= step]
    except (ValueError, KeyError) as error:
        raise DataError(
            f"is damaged: {error}", where=file, remedy="begin the run anew with --overwrite"
        ) from None
    write_atomic(file, "".join(json.dumps(line) + "\n" for line in lines))
