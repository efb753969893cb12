"""The folder of a preparation: img2dataset's shards, and beside them `.prepare` with what is needed to go on.

`.prepare/record.json` says what the folder holds the images of, and is written last, so a folder without it has nothing
to lose. `.prepare/list/` is the list as img2dataset reads it, and nearly as large, so it goes when all is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import check_place

from .stats import Counts, read_stats, stats_files

OWN = ".prepare"
PARTS = "_tmp"  # where img2dataset and its writer keep what is not finished
SHARD_DIGITS = 5


class PreparedFolder:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.own = self.path / OWN
        self.list = self.own / "list"
        self.log = self.own / "img2dataset.log"

    def check(self) -> None:
        """Raises UsageError if the folder is somebody else's, SetupError if nothing can be written there."""
        check_place(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("is not a folder", where=self.path, remedy="choose another path")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.own.is_dir():
            raise UsageError(
                "holds files, but none that kdx data prepare has begun there",
                where=self.path,
                remedy="choose another path",
            )

    @contextlib.contextmanager
    def kept_alone(self) -> Iterator[None]:
        """Raises UsageError if another kdx works in the folder. A folder of which nothing came is removed again."""
        new = not self.path.exists()
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            lock = (self.own / "lock").open("w")
        except OSError as error:
            raise SetupError(
                f"cannot be written: {error.strerror}", where=self.path, remedy="choose another path"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    "another kdx data prepare works there", where=self.path, remedy="wait until it has ended"
                ) from None
            try:
                yield
            finally:
                if new and self.read_record() is None:
                    shutil.rmtree(self.path, ignore_errors=True)
                shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def read_record(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.own / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise DataError(
                "is damaged", where=self.own / "record.json", remedy="choose another path"
            ) from None

    def forget_record(self) -> None:
        """Before a new list is written, so that none speaks of an old one."""
        (self.own / "record.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def making_list(self) -> Iterator[Path]:
        """Yields an empty folder, which becomes `list` when the block ends without an error."""
        new = self.own / "list.new"
        self.forget_list()
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
        new.rename(self.list)

    def forget_list(self) -> None:
        shutil.rmtree(self.list, ignore_errors=True)

    def write_record(self, record: dict[str, Any]) -> None:
        """Last, when the list is whole."""
        new = self.own / "record.new"
        new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        new.replace(self.own / "record.json")

    def forget_unfinished(self) -> None:
        """Removes the shards that are to be tried again: without whole counts, or of which nothing came."""
        shutil.rmtree(self.path / PARTS, ignore_errors=True)  # of a kdx that was killed
        stats = stats_files(self.path)
        kept = {number for number, path in stats.items() if (counts := read_stats(path)) and counts.got}
        for path in [*self.path.glob("[0-9]*.tar"), *self.path.glob("[0-9]*.parquet"), *stats.values()]:
            number = path.name.split(".")[0].split("_")[0]
            if number.isdecimal() and int(number) not in kept:
                path.unlink()

    def counts(self) -> Counts:
        """Of all shards that are whole."""
        total = Counts()
        for path in stats_files(self.path).values():
            total.add(read_stats(path) or Counts())
        return total

    def tars(self) -> list[Path]:
        return [path for path in sorted(self.path.glob("[0-9]*.tar")) if path.stem.isdecimal()]
