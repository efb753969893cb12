"""Facts of kdx/core/claims.py: one at a time has a claim, and a process that ends gives it back."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from kdx.core.claims import Claim, claim, shared_claim


def test_a_claim_is_one_callers_until_its_block_ends(tmp_path: Path) -> None:
    with claim(tmp_path / "lock") as first, claim(tmp_path / "lock") as second:
        assert (first, second) == (Claim.MINE, Claim.TAKEN)
    with claim(tmp_path / "lock") as again:
        assert again is Claim.MINE


def test_what_several_share_nobody_has_alone(tmp_path: Path) -> None:
    with shared_claim(tmp_path / "lock"), shared_claim(tmp_path / "lock"), claim(tmp_path / "lock") as alone:
        assert alone is Claim.TAKEN
    with claim(tmp_path / "lock") as alone:
        assert alone is Claim.MINE


def test_a_killed_process_gives_its_claim_back(tmp_path: Path) -> None:
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(tmp_path / "lock"):
            os.write(say, b"x")
            signal.pause()
    os.read(ready, 1)
    with claim(tmp_path / "lock") as taken:
        assert taken is Claim.TAKEN
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with claim(tmp_path / "lock") as free:
        assert free is Claim.MINE


def test_without_locks_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claim(tmp_path / "lock") as found, shared_claim(tmp_path / "lock"):
        assert found is Claim.UNKNOWN


def test_without_its_folder_there_is_nothing_to_claim(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), claim(tmp_path / "missing" / "lock"):
        pass
