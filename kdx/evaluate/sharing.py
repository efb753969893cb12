"""Work in pieces: shared by the processes of one evaluation, and kept so that an interrupted one goes on.

Each piece's embeddings are a file in a work folder under kdx's cache. Piece n belongs to rank n mod size; when all
ranks have made theirs, each reads those of the others, so that every rank has all and none twice. A file counts again
only if its digest says that it was made from the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdx.core.cache import cache_folder
from kdx.core.errors import SetupError

from .stored import Arrays, read_arrays, write_arrays

log = logging.getLogger(__name__)

DIGEST = "digest"  # of what a piece was made from, among its arrays
KEPT = 30 * 24 * 3600  # seconds that the pieces of an interrupted evaluation wait for its next attempt


class Peers(Protocol):
    """The processes that share an evaluation, each with the same model and data set; this one is `rank`, from 0."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def wait(self) -> None:
        """Returns when every process has come here."""
        ...


@dataclass(frozen=True)
class Alone:
    """The Peers of one process."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None: ...


@dataclass(frozen=True)
class Workplace:
    """peers: who shares the work. folder: where pieces are kept; None where a single process keeps nothing."""

    peers: Peers
    folder: Path | None

    def share(
        self,
        kind: str,
        count: int,
        digest: Callable[[int], str],
        make: Callable[[Sequence[int]], Iterator[tuple[str, Arrays]]],
    ) -> list[Arrays]:
        """`count` pieces of a kind, in their order, each made by one of the processes unless it is kept from before.

        digest: of what a piece is made from. make: yields digest and arrays of each of the pieces that it is given.
        """
        mine = range(self.peers.rank, count, self.peers.size)
        pieces = {number: kept for number in mine if (kept := self._kept(kind, number, digest)) is not None}
        missing = [number for number in mine if number not in pieces]
        for number, (made_from, piece) in zip(missing, make(missing), strict=True):
            pieces[number] = piece
            self._keep(kind, number, {**piece, DIGEST: np.array(made_from)})
        self.peers.wait()
        return [pieces[n] if n in pieces else self._of_another(kind, n) for n in range(count)]

    def _keep(self, kind: str, number: int, piece: Arrays) -> None:
        """A full disk ends the work of several processes, and only the keeping of one."""
        if self.folder is None:
            return
        try:
            write_arrays(self._path(kind, number), piece)
        except SetupError as error:
            if self.peers.size > 1:
                raise
            log.info("what is done is not kept: %s", error)

    def _kept(self, kind: str, number: int, digest: Callable[[int], str]) -> Arrays | None:
        if self.folder is None or (kept := read_arrays(self._path(kind, number))) is None:
            return None
        return kept if str(kept.pop(DIGEST, "")) == digest(number) else None

    def _of_another(self, kind: str, number: int) -> Arrays:
        piece = read_arrays(self._path(kind, number))
        if piece is None:
            raise SetupError(
                "is not there, though another process has written it",
                where=self._path(kind, number),
                remedy="set KDX_CACHE to a folder that all machines share",
            )
        return piece

    def _path(self, kind: str, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{kind}-{number:05d}.npz"


@contextlib.contextmanager
def workplace(name: str | None, peers: Peers) -> Generator[Workplace]:
    """name: of the work folder, the same for the same work; None keeps nothing, if this process is alone.

    The folder is removed when the block ends without an error, and left for the next attempt otherwise. Where nothing
    can be written, or another evaluation uses it, a single process goes without. Raises SetupError if several cannot.
    """
    if peers.size == 1 and name is None:
        yield Workplace(peers, None)
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = cache_folder() / "evaluations" / (name or "")
            if peers.rank == 0:
                _remove_old(folder.parent)
                stack.enter_context(_lock(folder))
        except SetupError as error:
            if peers.size > 1:
                raise
            log.info("the evaluation could not go on after an interruption: %s", error)
            yield Workplace(peers, None)
            return
        yield Workplace(peers, folder)
        peers.wait()  # until everybody has read everything
        if peers.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Generator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise SetupError(
            f"cannot be written: {error.strerror}", where=folder, remedy="set KDX_CACHE to another folder"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetupError(
                "another process scores the same model on the same data", where=folder, remedy="wait for it"
            ) from None
        yield


def _remove_old(evaluations: Path) -> None:
    for folder in evaluations.glob("*"):
        with contextlib.suppress(OSError, SetupError):
            if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > KEPT:
                with _lock(folder):
                    shutil.rmtree(folder, ignore_errors=True)
