"""Where a conversion is made: a hidden folder beside its place that outlives a killed one, so that the next goes on.

`.NAME.converting/` holds `new/`, the shards; `journal.jsonl`, of which plan they are and a line for each that is
whole; `plan.sqlite`; and `lock`, which the one that writes there keeps locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shlex
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdx.core.errors import SetupError, UsageError
from kdx.core.workspace import full_disk_said, locked, move_all

from .set_folder import check_set_free, set_files

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
MOVING, MOVED = "moving", "moved"  # lines of the journal while the files get their names, and then


@dataclass(frozen=True)
class FinishedShard:
    """state: a digest of what its images were when they were read. left_out: (image, reason)."""

    name: str
    size: int
    sha256: str
    state: str
    samples: int
    captions: int
    left_out: list[list[str]]


class ConversionFolder:
    """Made by `conversion_folder`. finished: by name, of the plan that `begin` was given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.new = path / "new"
        self.database = path / "plan.sqlite"
        self.finished: dict[str, FinishedShard] = {}

    def begin(self, plan: str) -> None:
        """Keeps the shards that are there if they are of this plan, and removes them if not."""
        lines = _read_lines(self.path / JOURNAL)
        if lines and lines[0] == {"plan": plan}:
            for line in lines[1:]:
                with contextlib.suppress(TypeError, OSError):
                    shard = FinishedShard(**line)
                    if (self.new / shard.name).stat().st_size == shard.size:
                        self.finished[shard.name] = shard
        else:
            shutil.rmtree(self.new, ignore_errors=True)
            (self.path / JOURNAL).unlink(missing_ok=True)
        self.new.mkdir(exist_ok=True)
        # written anew: a line that was cut by a kill would spoil the one behind it
        with (self.path / JOURNAL).open("w", encoding="utf-8") as file:
            for line in [{"plan": plan}, *map(asdict, self.finished.values())]:
                file.write(json.dumps(line) + "\n")

    def note_finished(self, shard: FinishedShard) -> None:
        """To be called when the shard is on the disk."""
        self.finished[shard.name] = shard
        self._write_line(asdict(shard))

    def move_to(self, folder: Path, *, overwrite: bool) -> None:
        """All files of `new` get their names in `folder`, classes.txt last; a set that lies there goes."""
        folder.mkdir(parents=True, exist_ok=True)
        old = self.path / "old"
        old.mkdir(exist_ok=True)
        with locked(folder):
            check_set_free(folder, overwrite=overwrite)  # another process may have written there meanwhile
            files = list(reversed(set_files(self.new)))
            self._write_line({MOVING: [file.name for file in files]})
            move_all(
                [(file, old / file.name) for file in set_files(folder)]
                + [(file, folder / file.name) for file in files]
            )
            self._write_line({MOVED: True})

    def undo_move(self, folder: Path) -> None:
        """What a kill in the middle of `move_to` left half done is as it was before. If all had been moved, only what
        it replaced was still to go."""
        lines = _read_lines(self.path / JOURNAL)
        moving = next((line[MOVING] for line in lines if MOVING in line), None)
        if any(MOVED in line for line in lines):
            shutil.rmtree(self.path / "old", ignore_errors=True)
            (self.path / JOURNAL).unlink()
            return
        if moving is None:
            return
        back = [(folder / name, self.new / name) for name in moving if not (self.new / name).exists()]
        old = [(file, folder / file.name) for file in set_files(self.path / "old")]
        move_all([(source, target) for source, target in back + old if source.exists()])

    def _write_line(self, line: dict[str, Any]) -> None:
        with (self.path / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def conversion_folder(folder: Path, *, overwrite: bool) -> Generator[ConversionFolder]:
    """Yields the place where what is to lie at `folder` is made, with what an interrupted conversion left there.

    It goes when the block ends well, or when it holds no whole shard. Raises UsageError if another process writes
    there or a set lies there and `overwrite` is not set, SetupError where nothing can be written.
    """
    path = folder.parent / f".{folder.name}.converting"
    if not (path / JOURNAL).exists():  # else what lies at `folder` may be half of what was to be moved there
        check_set_free(folder, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"a folder cannot be made here: {error.strerror}", where=folder, remedy="choose another path"
        ) from None
    work = ConversionFolder(path)
    with full_disk_said(folder), _alone(path, folder):
        try:
            work.undo_move(folder)
            check_set_free(folder, overwrite=overwrite)
            work.database.unlink(missing_ok=True)
            yield work
        except BaseException:
            if work.finished:
                log.warning(
                    "%d finished shards are kept: the same command goes on from there. To remove them: rm -r %s",
                    len(work.finished),
                    shlex.quote(str(path)),
                )
            elif not _read_lines(path / JOURNAL)[1:]:
                shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path, folder: Path) -> Generator[None]:
    with (path / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another kdx converts into this folder",
                where=folder,
                remedy="wait for it, or choose another path",
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, up to the first that is not."""
    lines: list[dict[str, Any]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return lines
