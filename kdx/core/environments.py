"""Environments for programs whose packages cannot lie beside those of kdx: made once, kept under the cache folder.

What goes into one is pinned in a file of requirements; other requirements are another environment.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .cache import alone, cache_folder
from .digests import value_digest
from .errors import SetupError

COMPLETE = ".complete"
PIP_REMEDY = "check the network and pip's index"
INTERPRETER_FACTS = """
import ctypes, json, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
try:
    found = bool(ctypes.CDLL(name))
except OSError:
    found = False
shared = sysconfig.get_config_var("Py_ENABLE_SHARED")
print(json.dumps({"executable": sys.executable, "version": "%d.%d" % sys.version_info[:2],
                  "library": name, "loads": found, "libdir": sysconfig.get_config_var("LIBDIR") if shared else None}))
"""


def environment_folder(name: str, *contents: str) -> Path:
    """Where the environment lies, or will. contents: all that decides what is in it."""
    return cache_folder() / f"{name}-{value_digest(list(contents))[:12]}"


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file()


def make_environment(folder: Path, python: str, fill: Callable[[Path], None]) -> bool:
    """Makes the environment if it is not there; returns whether it was made now.

    python: the interpreter's executable. fill: called with the folder once there is a bare environment. Two
    calls at once wait for each other; an interrupted one is made anew. Raises SetupError.
    """
    with alone(folder.with_suffix(".lock")):
        if is_complete(folder):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        run_command([python, "-m", "venv", str(folder)], "the environment cannot be made", PIP_REMEDY)
        fill(folder)
        (folder / COMPLETE).touch()
    return True


def pip_install(folder: Path, packages: Sequence[str], failure: str, remedy: str = PIP_REMEDY) -> None:
    """packages: with pip's options before them. Raises SetupError: `failure`, and pip's last line."""
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run_command([*pip, *packages], failure, remedy)


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python3.*/site-packages"))


def read_requirements(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def interpreters(versions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Facts of the interpreters of these versions ("3.11"): this one first, then those on the PATH."""
    for candidate in (sys.executable, *(f"python{version}" for version in versions)):
        facts = interpreter_facts(candidate)
        if facts and facts["version"] in versions:
            yield facts


def interpreter_facts(executable: str) -> dict[str, Any] | None:
    """executable, version, and which libpython it has; None if there is no such interpreter, or it does not run."""
    found = shutil.which(executable)
    if found is None:
        return None
    asked = subprocess.run([found, "-c", INTERPRETER_FACTS], capture_output=True, text=True, check=False)
    return json.loads(asked.stdout) if asked.returncode == 0 else None


def run_command(command: list[str], failure: str, remedy: str) -> None:
    """Raises SetupError: `failure`, and the last line that the command wrote."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {result.returncode}"
        raise SetupError(f"{failure}: {reason}", remedy=remedy)
