"""Facts of core/environments.py: how a program gets an environment of its own."""

import sys
from pathlib import Path

import pytest

from kdx.core import environments
from kdx.core.environments import (
    environment_folder,
    interpreter_facts,
    is_complete,
    make_environment,
    run_command,
    site_packages,
)
from kdx.core.errors import SetupError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_environment_is_made_once_and_lies_in_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(command: list[str], failure: str, remedy: str) -> None:
        assert command[:3] == [sys.executable, "-m", "venv"]
        (Path(command[3]) / "lib/python3.11/site-packages").mkdir(parents=True)

    monkeypatch.setattr(environments, "run_command", make)
    filled: list[Path] = []
    folder = environment_folder("tool", "pinned==1.0")
    assert folder.parent == cache and not is_complete(folder)
    assert make_environment(folder, sys.executable, filled.append)
    assert not make_environment(folder, sys.executable, filled.append)
    assert filled == [folder] and is_complete(folder) and site_packages(folder).is_dir()


def test_other_contents_are_another_environment() -> None:
    assert environment_folder("tool", "a==1") != environment_folder("tool", "a==2")
    assert environment_folder("tool", "a==1") != environment_folder("other", "a==1")


def test_an_environment_that_was_not_filled_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "run_command", lambda *command: None)

    def fail(folder: Path) -> None:
        raise SetupError("no route to the index")

    folder = environment_folder("tool", "pinned==1.0")
    with pytest.raises(SetupError):
        make_environment(folder, sys.executable, fail)
    assert not is_complete(folder)
    assert make_environment(folder, sys.executable, lambda made: made.mkdir())


def test_a_failing_command_is_told_by_its_last_line() -> None:
    with pytest.raises(SetupError) as caught:
        run_command(["sh", "-c", "echo trying; echo no route to host >&2; exit 3"], "it fails", "check")
    assert caught.value.what == "it fails: no route to host" and caught.value.remedy == "check"
    with pytest.raises(SetupError) as caught:
        run_command(["sh", "-c", "exit 3"], "it fails", "check")
    assert caught.value.what == "it fails: exit code 3"


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    facts = interpreter_facts(sys.executable)
    assert facts is not None and facts["version"] == ".".join(map(str, sys.version_info[:2]))
    assert interpreter_facts(str(tmp_path / "nowhere")) is None
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "broken").chmod(0o755)
    assert interpreter_facts(str(tmp_path / "broken")) is None
