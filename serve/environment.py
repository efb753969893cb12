"""The environment of the Triton server: its binary and the packages of its python backend, without torch.

It is made once by `kdx serve install` and kept under the user's cache folder, one for each list of requirements,
Python version and runner of a format. The binary is the one that `nvidia-pytriton` carries: for loopback and tests.
The backend's stub links libpython and takes its packages from the `python3` that comes first in the server's PATH.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.environments import (
    PIP_REMEDY,
    environment_folder,
    interpreters,
    is_complete,
    make_environment,
    pip_install,
    read_requirements,
    site_packages,
)
from kdx.core.errors import SetupError
from kdx.runtime.formats import find_format

REQUIREMENTS = Path(__file__).with_name("server-requirements.txt")
PYTHONS = ("3.11", "3.12")  # for which both the stub and numpy 1.26 exist
TENSORRT = (
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
)  # NVIDIA's names for the one that brings its libraries
INSTALL = "run `kdx serve install{options}`"
SHARED_MEMORY = Path("/dev/shm")
REMEDY = f"{PIP_REMEDY}; the binary needs x86-64 Linux with glibc 2.35"


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
    if not is_complete(environment):
        options = f" --format {format_name}" * (format_name != "onnx") + f" --device {device}" * (
            device != "cpu"
        )
        raise SetupError(
            "no Triton binary is installed", where=environment, remedy=INSTALL.format(options=options)
        )
    return Triton(
        server=site_packages(environment) / "pytriton/tritonserver/bin/tritonserver",
        backends=environment / "backends",
        path=environment / "bin",
        library_path=python["libdir"],
        source=next(
            line for line in read_requirements(REQUIREMENTS) if line.startswith("nvidia-pytriton")
        ).replace("==", " "),
    )


def runner_requirements(format_name: str, device: str) -> list[str]:
    """What the runner of a format needs in a server beside REQUIREMENTS, which have ONNX Runtime's for a CPU.

    Of the versions that are installed here, with which the gate has compared; the newest of what is not here.
    """
    if format_name == "onnx":
        return [_as_here("onnxruntime-gpu", "[cuda,cudnn]")] if device == "gpu" else []
    packages = find_format(format_name).packages
    if format_name == "trt":
        packages = (*packages, next(filter(_is_here, TENSORRT), TENSORRT[0]))
    return [_as_here(package) for package in packages]


def _is_here(package: str) -> bool:
    return any(True for _ in importlib.metadata.distributions(name=package))


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
    chosen = [line for line in read_requirements(REQUIREMENTS) if not _is_replaced(line, runner)]

    def fill(folder: Path) -> None:
        failure = "the server's packages do not install"
        pip_install(folder, ["--no-deps", *chosen], failure, REMEDY)
        if (
            runner
        ):  # what they need in turn is pip's to find, as long as NumPy and the others stay as they are
            pip_install(folder, [*chosen, *runner], failure, REMEDY)
        _link_backend(folder, python["version"])

    return environment, make_environment(environment, python["executable"], fill)


def _is_replaced(line: str, runner: list[str]) -> bool:
    """The packages for a CPU and a GPU bring one module."""
    return line.startswith("onnxruntime==") and any(each.startswith("onnxruntime-gpu") for each in runner)


def _choose_python() -> dict[str, Any]:
    """Facts of the first interpreter that the stub can use: this one, or another on the PATH."""
    without_library: dict[str, Any] | None = None
    for facts in interpreters(PYTHONS):
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


def _environment_folder(python_version: str, runner: list[str]) -> Path:
    return environment_folder("triton", REQUIREMENTS.read_text(encoding="utf-8"), python_version, *runner)


def _link_backend(environment: Path, python_version: str) -> None:
    """The wheel keeps the stub apart from the backend, which looks for it in its own folder."""
    triton = site_packages(environment) / "pytriton/tritonserver"
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
