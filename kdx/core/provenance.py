"""Where a product came from: versions, command, machine, seeds, digests of the inputs."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdx

from .urls import shown

NVIDIA_SMI_TIMEOUT = 30.0  # seconds; beside a broken driver it hangs
PACKAGES = (
    "torch",
    "open_clip_torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tritonclient",
    "numpy",
    "pillow",
    "simplejpeg",
    "tokenizers",
)


# a path at the start of an argument, or of a value in one: `--out=…`, `key=["…", "…"]`; never the rest of a URL
PATH = re.compile(r"""(?:^|(?<=[=,\["' ]))[^=,:\["' ]*/[^,\]"']*""")


def collect_provenance(
    *, inputs: dict[str, str] | None = None, seeds: dict[str, int] | None = None, shipped: bool = False
) -> dict[str, Any]:
    """A JSON-serialisable record of this process and machine. inputs: digests by name.

    shipped: for a product that is handed on to others. Paths in the command line are reduced to the last name, and
    the system to its kind: where things lay and what kernel ran belong to the maker.
    """
    record: dict[str, Any] = {
        "kdx": kdx.__version__,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *map(shown, sys.argv[1:])],
        "python": platform.python_version(),
        "packages": package_versions(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": cpu_count(),
        "gpu": gpu_names(),
        "seeds": seeds or {},
        "inputs": inputs or {},
    }
    if shipped:
        record["command"] = [_without_paths(argument) for argument in record["command"]]
        record["system"] = f"{platform.system()}-{platform.machine()}"
    return record


def _without_paths(argument: str) -> str:
    """For example `--data=/home/ada/photos` → `--data=photos`."""
    return PATH.sub(lambda found: Path(found.group()).name, argument)


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide results, by name."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows; empty without a driver that answers."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=NVIDIA_SMI_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return []
    return listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []


@functools.cache
def _commit() -> str | None:
    """The checkout's commit, with `+changes` when files differ; None for an installed package."""
    root = Path(kdx.__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return None
    changes = git("status", "--porcelain").stdout.strip()
    return head.stdout.strip() + ("+changes" if changes else "")


def cpu_name() -> str:
    """As the system calls it, such as AMD EPYC."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
