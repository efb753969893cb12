"""The environment of the Triton server: its binary and the packages of its python backend, without torch.

It is made once by `kdx serve install` and kept under the user's cache folder, one for each list of requirements,
Python version and runner of a format. The binary is the one that `nvidia-pytriton` carries: for loopback and tests.
The backend's stub links libpython and takes its packages from the `python3` that comes first in the server's PATH.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.cache import alone, cache_folder
from kdx.core.digests import value_digest
from kdx.core.errors import SetupError
from kdx.runtime.formats import find_format

REQUIREMENTS = Path(__file__).with_name("server-requirements.txt")
PYTHONS = ("3.11", "3.12")  # for which both the stub and numpy 1.26 exist
COMPLETE = ".complete"
INSTALL = "run `kdx serve install{options}`"
SHARED_MEMORY = Path("/dev/shm")
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


@dataclass(frozen=True)
class Triton:
    """What is needed to start a server.

    server: the executable. backends: for --backend-directory. path: the folder that must come first in PATH.
    library_path: for LD_LIBRARY_PATH, or None. source: the package that carries the executable.
    """

    server: Path
    backends: Path
    path: Path
    library_path: str | None
    source: str


def find_triton(format_name: str = "onnx", device: str = "cpu") -> Triton:
    """The installed server that runs this format on this device. Raises SetupError if there is none."""
    python = _choose_python()
    environment = _environment_folder(python["version"], runner_requirements(format_name, device))
    if not (environment / COMPLETE).is_file():
        options = f" --format {format_name}" * (format_name != "onnx") + f" --device {device}" * (
            device != "cpu"
        )
        raise SetupError(
            "no Triton binary is installed", where=environment, remedy=INSTALL.format(options=options)
        )
    return Triton(
        server=_site_packages(environment) / "pytriton/tritonserver/bin/tritonserver",
        backends=environment / "backends",
        path=environment / "bin",
        library_path=python["libdir"],
        source=next(line for line in _requirements() if line.startswith("nvidia-pytriton")).replace(
            "==", " "
        ),
    )


def runner_requirements(format_name: str, device: str) -> list[str]:
    """What the runner of a format needs in a server beside REQUIREMENTS, which have ONNX Runtime's for a CPU.

    Of the versions that are installed here, with which the gate has compared; the newest of what is not here.
    """
    if format_name == "onnx":
        return [_as_here("onnxruntime-gpu", "[cuda,cudnn]")] if device == "gpu" else []
    packages = find_format(format_name).packages
    if format_name == "trt":
        packages = (*packages, "tensorrt")  # NVIDIA's package that finds its libraries
    return [_as_here(package) for package in packages]


def _as_here(package: str, extra: str = "") -> str:
    try:
        return f"{package}{extra}=={importlib.metadata.version(package).partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return package + extra


def shared_memory_shortage(needed: int) -> str | None:
    """What to do when fewer than `needed` bytes are free in /dev/shm, through which requests reach the models."""
    if not SHARED_MEMORY.is_dir():
        return f"there is no {SHARED_MEMORY}, through which Triton hands requests to its models"
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return None
    return (
        f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free; a server under load takes up to {needed / 2**20:.0f} MiB "
        "and refuses requests beyond (docker run --shm-size=1g gives a container more)"
    )


def install_triton(format_name: str = "onnx", device: str = "cpu") -> tuple[Path, bool]:
    """Makes the environment that runs this format on this device if it is not there. Returns its folder and whether it
    was made now.

    Two installations at once wait for each other; an interrupted one is made anew. Raises SetupError, and UsageError
    for a format that there is not.
    """
    runner = runner_requirements(format_name, device)
    python = _choose_python()
    environment = _environment_folder(python["version"], runner)
    with alone(environment.with_suffix(".lock")):
        if (environment / COMPLETE).is_file():
            return environment, False
        shutil.rmtree(environment, ignore_errors=True)
        _run([python["executable"], "-m", "venv", str(environment)], "the environment cannot be made")
        pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
        chosen = [line for line in _requirements() if not _is_replaced(line, runner)]
        failure = "the server's packages do not install"
        _run([*pip, "--quiet", "--no-deps", *chosen], failure)
        if (
            runner
        ):  # what they need in turn is pip's to find, as long as NumPy and the others stay as they are
            _run([*pip, "--quiet", *chosen, *runner], failure)
        _link_backend(environment, python["version"])
        (environment / COMPLETE).touch()
    return environment, True


def _is_replaced(line: str, runner: list[str]) -> bool:
    """The packages for a CPU and a GPU bring one module."""
    return line.startswith("onnxruntime==") and any(each.startswith("onnxruntime-gpu") for each in runner)


def _choose_python() -> dict[str, Any]:
    """Facts of the first interpreter that the stub can use: this one, or another on the PATH."""
    without_library: dict[str, Any] | None = None
    for candidate in (sys.executable, *(f"python{version}" for version in PYTHONS)):
        facts = _interpreter_facts(candidate)
        if facts and facts["version"] in PYTHONS:
            if facts["libdir"] or facts["loads"]:
                return facts
            without_library = without_library or facts
    if without_library:
        raise SetupError(
            f"Triton's python backend needs {without_library['library']}, which is not on this machine",
            remedy=f"install it (Debian, Ubuntu: apt install libpython{without_library['version']})",
        )
    raise SetupError(
        f"Triton's python backend needs Python {' or '.join(PYTHONS)}",
        where=sys.executable,
        remedy=f"install python{PYTHONS[0]}, so that it is on the PATH",
    )


def _interpreter_facts(executable: str) -> dict[str, Any] | None:
    """None if there is no such interpreter, or it does not run."""
    found = shutil.which(executable)
    if found is None:
        return None
    asked = subprocess.run([found, "-c", INTERPRETER_FACTS], capture_output=True, text=True, check=False)
    return json.loads(asked.stdout) if asked.returncode == 0 else None


def _environment_folder(python_version: str, runner: list[str]) -> Path:
    key = value_digest([REQUIREMENTS.read_text(encoding="utf-8"), python_version, *runner])
    return cache_folder() / f"triton-{key[:12]}"


def _site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python3.*/site-packages"))


def _link_backend(environment: Path, python_version: str) -> None:
    """The wheel keeps the stub apart from the backend, which looks for it in its own folder."""
    triton = _site_packages(environment) / "pytriton/tritonserver"
    folder = environment / "backends/python"
    folder.mkdir(parents=True)
    for file in (
        triton / "backends/python/libtriton_python.so",
        triton / "backends/python/triton_python_backend_utils.py",
        triton / "python_backend_stubs" / python_version / "triton_python_backend_stub",
    ):
        if not file.exists():
            raise SetupError(
                "the package lacks a part of the python backend", where=file, remedy="report it to kdx"
            )
        (folder / file.name).symlink_to(file)


def _requirements() -> list[str]:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _run(command: list[str], failure: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {result.returncode}"
        raise SetupError(
            f"{failure}: {reason}",
            remedy="check the network and pip's index; the binary needs x86-64 Linux with glibc 2.35",
        )
