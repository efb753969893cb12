"""Facts of kdx/data/remote/shard_cache.py: one fetch for all, a bound that holds, and nothing removed that is read."""

from __future__ import annotations

import fcntl
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.data.remote import shard_cache
from kdx.data.remote.files import RemoteFile, look_at
from kdx.data.remote.shard_cache import NoRoom, ShardCache

if TYPE_CHECKING:
    from .conftest import Web

SIZE = 1000


@pytest.fixture
def shards(web: Web) -> list[RemoteFile]:
    for number in range(6):
        (web.folder / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    return [look_at(f"{web.url}/{number}.tar") for number in range(6)]


@pytest.fixture
def cache(places_of_its_own: Path, monkeypatch: pytest.MonkeyPatch) -> ShardCache:
    """With room for three."""
    monkeypatch.setattr(shard_cache, "RECENT", -1.0)
    return ShardCache(places_of_its_own, 3 * SIZE)


def _names(cache: ShardCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.name != "lock")


def _read(cache: ShardCache, file: RemoteFile) -> bytes:
    descriptor = cache.open(file)
    try:
        return os.pread(descriptor, SIZE, 0)
    finally:
        os.close(descriptor)


def _read_all(folder: Path, files: list[RemoteFile], rounds: int) -> tuple[list[bytes], int]:
    """In another process: what it read at last, and the most bytes that it saw in the cache."""
    shard_cache.RECENT = -1.0
    cache, read, most = ShardCache(folder, 3 * SIZE), [b""], 0
    for _ in range(rounds):
        read = []
        for file in files:
            try:
                read.append(_read(cache, file))
            except NoRoom:
                read.append(b"no room")
            most = max(most, sum(state.st_size for _, state in shard_cache._entries(folder)))
    return read, most


def test_a_shard_is_fetched_once_for_everybody(cache: ShardCache, shards: list[RemoteFile], web: Web) -> None:
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: _read(cache, shards[1]), range(8)))
    assert read == [bytes([1]) * SIZE] * 8
    assert web.asked["GET 1.tar"] == 1 and _names(cache) == [cache.path(shards[1]).name]


def test_the_longest_unused_goes_first(
    cache: ShardCache, shards: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1, 2, 0, 3):
        assert _read(cache, shards[number]) == bytes([number]) * SIZE
    assert _names(cache) == sorted(cache.path(shards[number]).name for number in (0, 2, 3))


def test_what_is_read_or_was_just_read_stays(
    cache: ShardCache, shards: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [cache.open(shards[number]) for number in (0, 1, 2)]
    with pytest.raises(NoRoom):
        cache.open(shards[3])
    os.close(held[1])
    assert _read(cache, shards[3]) == bytes([3]) * SIZE
    assert _names(cache) == sorted(cache.path(shards[number]).name for number in (0, 2, 3))
    os.close(held[0])
    monkeypatch.setattr(shard_cache, "RECENT", 60.0)
    with pytest.raises(NoRoom):
        cache.open(shards[4])
    os.close(held[2])


def test_processes_share_a_tiny_bound(cache: ShardCache, shards: list[RemoteFile]) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        both = [
            pool.submit(_read_all, cache.folder, order, 5) for order in (shards, [*shards[3:], *shards[:3]])
        ]
        for running, order in zip(both, (shards, [*shards[3:], *shards[:3]]), strict=True):
            read, most = running.result()
            assert read == [bytes([int(file.url[-5])]) * SIZE for file in order]
            assert SIZE <= most <= 3 * SIZE


def test_what_a_killed_process_left_counts_no_longer(cache: ShardCache, shards: list[RemoteFile]) -> None:
    cache.folder.mkdir(parents=True)
    (cache.folder / "dead.part").write_bytes(bytes(3 * SIZE))
    cache.path(shards[0]).with_suffix(".part").write_bytes(b"begun")
    cache.path(shards[1]).write_bytes(b"cut")
    assert _read(cache, shards[0]) == bytes([0]) * SIZE and _read(cache, shards[1]) == bytes([1]) * SIZE
    assert len(_names(cache)) == 2


def test_one_that_is_being_fetched_counts_and_is_waited_for(
    cache: ShardCache, shards: list[RemoteFile], web: Web
) -> None:
    cache.folder.mkdir(parents=True)
    part = cache.path(shards[0]).with_suffix(".part")
    part.write_bytes(bytes(3 * SIZE))
    with part.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NoRoom):
            cache.open(shards[1])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_read, cache, shards[0])
            time.sleep(0.05)
            assert not waiting.done()
            other.close()
            assert waiting.result() == bytes([0]) * SIZE


def test_a_shard_that_changes_is_not_kept(cache: ShardCache, shards: list[RemoteFile], web: Web) -> None:
    (web.folder / "0.tar").write_bytes(b"x" * SIZE)
    os.utime(web.folder / "0.tar", (1, 1))
    with pytest.raises(DataError, match="has changed"):
        cache.open(shards[0])
    assert _names(cache) == []
    again = look_at(shards[0].url)
    assert _read(cache, again) == b"x" * SIZE and cache.path(again) != cache.path(shards[0])


def test_the_bound_is_a_size_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ShardCache.of_machine() == ShardCache(tmp_path / "cache/shards", 32 * 2**30)
    monkeypatch.setenv("KDX_SHARD_CACHE", str(tmp_path / "mine"))
    for text, size in (("1.5 kB", 1500), ("2GiB", 2**31), ("12", 12)):
        monkeypatch.setenv("KDX_SHARD_CACHE_SIZE", text)
        assert ShardCache.of_machine() == ShardCache(tmp_path / "mine", size)
    monkeypatch.setenv("KDX_SHARD_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="KDX_SHARD_CACHE_SIZE"):
        ShardCache.of_machine()


def test_a_folder_that_cannot_be_made_is_the_machines_fault(shards: list[RemoteFile], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError) as error:
        ShardCache(tmp_path / "file" / "shards", SIZE).open(shards[0])
    assert "KDX_SHARD_CACHE" in str(error.value.remedy)
