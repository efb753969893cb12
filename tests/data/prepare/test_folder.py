"""Facts of data/prepare/folder.py: what is kept and what is tried again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.data.prepare.folder import PARTS, PreparedFolder


def shard(folder: Path, number: int, stats: str | None) -> None:
    for suffix in ("tar", "parquet"):
        (folder / f"{number:05d}.{suffix}").touch()
    if stats is not None:
        (folder / f"{number:05d}_stats.json").write_text(stats)


def stats(got: int) -> str:
    return json.dumps({"count": 10, "successes": got, "status_dict": {"success": got, "timed out": 10 - got}})


def test_shards_that_are_not_whole_or_empty_are_tried_again(tmp_path: Path) -> None:
    shard(tmp_path, 0, stats(7))
    shard(tmp_path, 1, stats(0))  # the network was away
    shard(tmp_path, 2, stats(7)[:20])  # killed while it wrote the counts
    shard(tmp_path, 3, None)
    (tmp_path / "notes.tar").touch()
    (tmp_path / PARTS).mkdir()
    folder = PreparedFolder(tmp_path)
    folder.forget_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000.parquet",
        "00000.tar",
        "00000_stats.json",
        "notes.tar",
    ]
    assert (folder.counts().rows, folder.counts().got) == (10, 7)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="holds files, but none that kdx data prepare has begun there"):
        PreparedFolder(tmp_path).check()
    with pytest.raises(UsageError, match="is not a folder"):
        PreparedFolder(tmp_path / "holiday.jpg").check()


def test_a_folder_of_which_nothing_came_is_removed_again(tmp_path: Path) -> None:
    folder = PreparedFolder(tmp_path / "out")
    with folder.kept_alone():
        folder.check()
    assert not folder.path.exists()
    with folder.kept_alone():
        folder.write_record({"rows": 3})
    assert folder.read_record() == {"rows": 3}
    folder.forget_record()
    assert folder.read_record() is None


def test_a_list_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = PreparedFolder(tmp_path / "out")
    with folder.kept_alone():
        with folder.making_list() as new:
            (new / "00000.parquet").write_text("old")
        with pytest.raises(KeyboardInterrupt), folder.making_list() as new:
            (new / "00000.parquet").write_text("half")
            raise KeyboardInterrupt
        assert not folder.list.exists()
        with folder.making_list() as new:
            assert list(new.iterdir()) == []
            (new / "00000.parquet").write_text("new")
        assert (folder.list / "00000.parquet").read_text() == "new"


def test_two_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = PreparedFolder(tmp_path / "out")
    with (
        folder.kept_alone(),
        pytest.raises(UsageError, match="another kdx data prepare works there"),
        folder.kept_alone(),
    ):
        pass
    assert not folder.path.exists()
