"""Facts of data/prepare/environment.py: where img2dataset is installed, and from what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdx.core import environments
from kdx.core.errors import SetupError
from kdx.data.prepare.environment import DISTRIBUTORS, REQUIREMENTS, find_downloader

PYTHON: dict[str, Any] = {"executable": "/opt/python3.11", "version": "3.11"}


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Instead of being run, they are kept."""
    kept: list[list[str]] = []

    def run(command: list[str], failure: str, remedy: str) -> None:
        kept.append(command)
        if "venv" in command:
            (Path(command[-1]) / "lib/python3.11/site-packages").mkdir(parents=True)

    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "run_command", run)
    monkeypatch.setattr(environments, "interpreter_facts", lambda executable: PYTHON)
    return kept


def test_what_is_pinned_is_installed_once_and_nothing_reports(commands: list[list[str]]) -> None:
    downloader = find_downloader()
    assert downloader.install() and downloader.is_installed and not downloader.install()
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins) and not any("wandb" in line for line in pins)
    assert len(commands) == 2 and commands[1][-len(pins) :] == pins and "--no-deps" in commands[1]
    (stub,) = downloader.python.parent.parent.glob("lib/*/site-packages/wandb.py")
    namespace: dict[str, Any] = {}
    exec(stub.read_text(), namespace)
    assert set(namespace) == {"__builtins__", "__doc__"}


def test_a_cluster_has_its_own_environment(commands: list[list[str]]) -> None:
    downloaders = [find_downloader(name) for name in DISTRIBUTORS]
    assert len({downloader.python for downloader in downloaders}) == 3
    assert all(downloader.install() for downloader in downloaders)
    last = [command[-1].partition("==")[0] for command in commands if "install" in command]
    assert last == ["webdataset", "webdataset", "pyspark", "webdataset", "ray"]


def test_a_python_that_img2dataset_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "interpreter_facts", lambda executable: {**PYTHON, "version": "3.13"})
    with pytest.raises(SetupError, match=r"img2dataset needs Python 3\.11 or 3\.12") as caught:
        find_downloader()
    assert caught.value.remedy == "install python3.11, so that it is on the PATH"
