"""Facts of kdx/core/cache.py."""

from __future__ import annotations

import threading
from pathlib import Path

import platformdirs
import pytest

from kdx.core.cache import alone, cache_folder
from kdx.core.errors import SetupError


def test_kdx_cache_names_the_folder_and_the_users_cache_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("KDX_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("kdx")


def test_a_second_one_waits_at_the_lock(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with alone(tmp_path / "sub/work.lock"):
            order.append("second")

    with alone(tmp_path / "sub/work.lock"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_a_lock_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError) as caught, alone(tmp_path / "file/work.lock"):
        pass
    assert caught.value.where == str(tmp_path / "file") and "KDX_CACHE" in str(caught.value.remedy)
