"""A cache in work: a folder that any number of processes fill, shard by shard, and the last one seals.

Until it is sealed it has a folder `building/`:
    plan.json              what it will be the cache of, and how embeddings are stored
    NAME.json              one a finished shard: the digest of its file, its captions, bad images and seconds
    NAME.lock, users.lock  claims of the processes that make it
    NAME.TOKEN             a file that is being written
A shard's file gets its name when it is whole and on the disk, and its record after that. So whatever ends a process,
what is recorded is right, and what it was making is all that is lost.
"""

from __future__ import annotations

import contextlib
import glob
import json
import secrets
import shutil
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from kdx.core.claims import Claim, claim, shared_claim
from kdx.core.digests import file_digest
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import (
    MANIFEST,
    check_place,
    fsync,
    manifest_text,
    open_to_readers,
    read_json,
    write_atomic,
)
from kdx.core.provenance import collect_provenance
from kdx.core.workspace import full_disk_said, workspace

from .identity import KIND, no_cache
from .storage import Storage

T = TypeVar("T")

BUILDING = "building"
PLAN = "plan.json"
USERS = "users.lock"
SEALING = "sealing.lock"
TOKEN = 8  # letters


@dataclass(frozen=True)
class WorkPlan:
    """What plan.json says. files: of each shard; rows: how many samples each has."""

    fingerprint: str
    storage: Storage
    teacher: dict[str, Any]
    data: dict[str, Any]
    views: int
    files: list[str]
    rows: list[int]


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard. precision: of the teacher's arithmetic."""

    digest: str
    bytes: int
    captions: int
    bad_images: int
    seconds: float
    precision: str


class Gone(Exception):
    """The cache is no longer in work: another process has sealed it, or has left nothing of it."""


class CacheWork:
    """The cache in work at `folder`, from `join_work`. Each method may raise Gone."""

    def __init__(self, folder: Path, plan: WorkPlan) -> None:
        self.folder, self.plan = folder, plan
        self._building = folder / BUILDING
        self._records: dict[str, ShardRecord] = {}  # those that were read: they never change

    def missing(self) -> list[str]:
        """Files of the shards that are not finished, in their order."""
        there = set(_listed(self._building))
        return [file for file in self.plan.files if f"{file}.json" not in there]

    def records(self) -> dict[str, ShardRecord]:
        """Of the finished shards, by file."""
        there = set(_listed(self._building))
        for file in self.plan.files:
            if file not in self._records and f"{file}.json" in there:
                self._records[file] = _read(ShardRecord, self._building / f"{file}.json")
        return self._records

    @property
    def rows_done(self) -> int:
        missing = set(self.missing())
        return sum(
            rows for file, rows in zip(self.plan.files, self.plan.rows, strict=True) if file not in missing
        )

    @contextlib.contextmanager
    def claimed(self, file: str) -> Generator[Claim]:
        """For the block the shard is this process's to make, if nobody else makes it."""
        with contextlib.ExitStack() as claiming:
            try:
                found = claiming.enter_context(claim(self._building / f"{file}.lock"))
            except FileNotFoundError:
                raise Gone from None
            if found is Claim.MINE:  # then whoever wrote these is dead
                for left in self._building.glob(f"{glob.escape(file)}.{'?' * TOKEN}"):
                    left.unlink(missing_ok=True)
            yield found

    def write(self, file: str, tensors: Mapping[str, Tensor], **facts: Any) -> None:
        """facts: what its record says besides digest and bytes."""
        unnamed = self._building / f"{file}.{secrets.token_hex(TOKEN // 2)}"
        with full_disk_said(self.folder):
            try:
                save_file(dict(tensors), unnamed)
                open_to_readers(unnamed, self.folder)
                fsync(unnamed)
                record = ShardRecord(digest=file_digest(unnamed), bytes=unnamed.stat().st_size, **facts)
                unnamed.replace(self.folder / file)
                fsync(self.folder)
            finally:
                unnamed.unlink(missing_ok=True)
        write_atomic(self._building / f"{file}.json", json.dumps(asdict(record)))

    def seal(self) -> None:
        """Seals the folder, unless another process does it now. All shards must be finished."""
        try:
            with claim(self._building / SEALING) as found:
                if found is Claim.TAKEN:
                    return
                if not (self.folder / MANIFEST).exists():
                    unnamed = self._building / MANIFEST
                    unnamed.write_text(self._manifest(), encoding="utf-8")
                    fsync(unnamed)
                    unnamed.replace(self.folder / MANIFEST)
                    fsync(self.folder)
                _remove(self._building, beside=self.folder)
        except FileNotFoundError:
            raise Gone from None

    def _manifest(self) -> str:
        plan, records = self.plan, self.records()
        fields = {
            "fingerprint": plan.fingerprint,
            "storage": plan.storage,
            "precision": "+".join(sorted({record.precision for record in records.values()})),
            "teacher": plan.teacher,
            "data": plan.data,
            "views": plan.views,
            "captions": sum(record.captions for record in records.values()),
            "bad_images": sum(record.bad_images for record in records.values()),
            "seconds": sum(record.seconds for record in records.values()),
        }
        digest = {file: records[file].digest for file in plan.files}
        inputs = {"teacher": plan.teacher["digest"], "data": plan.data["digest"]}
        return manifest_text(KIND, digest, collect_provenance(inputs=inputs), fields)


def is_whole(folder: Path) -> bool:
    """Whether something lies there that is sealed, and nobody is about to finish that."""
    return (folder / MANIFEST).exists() and not (folder / BUILDING).exists()


@contextlib.contextmanager
def join_work(folder: Path, plan: WorkPlan, storage: Storage | None) -> Generator[CacheWork]:
    """Yields the cache in work at `folder`, which is begun if nothing lies there.

    storage: the one that is asked for; None: that of what is in work. A block that ends in an error, with nothing
    finished and nobody else at work, leaves nothing. Raises UsageError for anything else that lies there, and Gone.
    """
    using, found = _join(folder, plan, storage)
    try:
        with using:
            yield CacheWork(folder, found)
    except BaseException:
        _leave_nothing_unless_begun(folder)
        raise


def read_plan(folder: Path) -> WorkPlan:
    """Of the cache in work. Raises Gone when there is none."""
    if not (folder / BUILDING / PLAN).is_file():
        raise Gone
    return _read(WorkPlan, folder / BUILDING / PLAN)


def _read(kind: type[T], path: Path) -> T:
    """Raises DataError for what is damaged, or says something else."""
    try:
        return kind(**read_json(path))
    except TypeError:
        raise DataError(
            "was written by another version of kdx",
            where=path,
            remedy="use that one, or remove the cache in work",
        ) from None


def _join(folder: Path, plan: WorkPlan, storage: Storage | None) -> tuple[contextlib.ExitStack, WorkPlan]:
    if not folder.exists():
        _begin(folder, plan)
    elif not (folder / BUILDING / PLAN).is_file():
        if is_whole(folder):
            raise Gone
        raise no_cache(folder)
    with contextlib.ExitStack() as using:
        try:
            using.enter_context(shared_claim(folder / BUILDING / USERS))
        except FileNotFoundError:
            raise Gone from None
        found = read_plan(folder)
        if found.fingerprint == plan.fingerprint and storage in (None, found.storage):
            return using.pop_all(), found
        done = len(CacheWork(folder, found).records())
    if _leave_nothing_unless_begun(folder):
        raise Gone
    differs = (
        f"stored as {found.storage}"
        if found.fingerprint == plan.fingerprint
        else "of another teacher, views or data"
    )
    raise UsageError(
        f"holds {done} of {len(found.files)} shards of a cache {differs}",
        where=folder,
        remedy="give another --cache folder, or remove this one",
    )


def _begin(folder: Path, plan: WorkPlan) -> None:
    """The folder appears with the plan in it, or another's does."""
    check_place(folder)
    with workspace(folder) as new:
        (new / BUILDING).mkdir(parents=True)
        (new / BUILDING / PLAN).write_text(json.dumps(asdict(plan)), encoding="utf-8")
        try:
            new.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def _leave_nothing_unless_begun(folder: Path) -> bool:
    """Removes a cache in work that has no finished shard, if nobody else works on it. Returns whether it did."""
    try:
        with claim(folder / BUILDING / USERS) as found:
            if found is not Claim.MINE or CacheWork(folder, read_plan(folder)).records():
                return False
            _remove(folder, beside=folder)
            return True
    except (FileNotFoundError, NotADirectoryError, Gone):
        return False


def _remove(path: Path, *, beside: Path) -> None:
    """Gone at once for whoever looks, and then from the disk."""
    aside = beside.with_name(f".{beside.name}.removed-{secrets.token_hex(4)}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        raise Gone from None
