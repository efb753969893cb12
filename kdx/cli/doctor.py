"""`kdx doctor`: what this machine has, and what is missing for which part of kdx."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from .output import print_json, print_table

COLOURS = {"ok": "green", "limited": "yellow", "missing": "yellow", "wrong": "red"}
# package → the module that is imported, and the extra of kdx that brings it
PACKAGES = {
    "numpy": ("numpy", None),
    "pillow": ("PIL.Image", None),
    "tokenizers": ("tokenizers", None),
    "tritonclient": ("tritonclient.grpc", None),
    "torch": ("torch", "train"),
    "torchvision": ("torchvision", "train"),
    "timm": ("timm", "train"),
    "open_clip_torch": ("open_clip", "train"),
    "onnx": ("onnx", "train"),
    "onnxscript": ("onnxscript", "train"),
}
# what one format needs: its distributions, of which one is there; the modules; what for, and how to get it
RUNTIMES = {
    "OpenVINO": (("openvino",), ("openvino",), "for --format openvino: pip install 'kdx[openvino]'"),
    "TensorRT": (
        ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
        ("tensorrt", "cuda.bindings.runtime"),
        "for --format trt on NVIDIA GPUs of data centres: a container of NVIDIA, or its own package index "
        "(pypi.nvidia.com), and pip install 'kdx[trt]'",
    ),
    "TensorRT-RTX": (
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
        ("tensorrt_rtx", "cuda.bindings.runtime"),
        "for --format trt-rtx on RTX GPUs, and to prove graphs with NVIDIA's parser: pip install 'kdx[trt-rtx]'",
    ),
}
MIN_DISK = 2  # GiB; the demo and a Triton environment take about half of it
IMPORT_TIMEOUT = 120  # seconds


@dataclass(frozen=True)
class Finding:
    """One line about one subject.

    state: ok; limited (kdx works, with the limit that the detail names); missing (a part of kdx does not work);
    wrong (what is there does not work, or results may be wrong).
    """

    subject: str
    state: str
    detail: str


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Check what this machine has and what is missing; exit 5 if something is wrong.

    Each package is really imported, in a process of its own. "missing" is no fault: it names the part of kdx that does
    not work without it, and the command that installs it.

    Example: kdx doctor
    """
    with ThreadPoolExecutor(2) as pool:
        findings = [
            *pool.map(_check_package, PACKAGES),
            _check_onnxruntime(),
            *pool.map(_check_runtime, RUNTIMES),
            _check_gpu(),
            _check_triton(),
            _check_shared_memory(),
            _check_disk(),
        ]
    if as_json:
        from kdx.core.provenance import collect_provenance

        print_json({"findings": [asdict(f) for f in findings], "machine": collect_provenance()})
    else:
        _print(findings)
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(5)


def _print(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(
            Text(finding.state, COLOURS[finding.state]), Text(finding.subject), Text(finding.detail)
        )
    print_table(table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_error(*modules: str) -> str | None:
    """Why a fresh Python cannot import the modules one after the other; None if it can."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the import did not end within {IMPORT_TIMEOUT} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the import was killed by signal {-done.returncode}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"the import ended with exit code {done.returncode}"


def _check_package(package: str) -> Finding:
    module, extra = PACKAGES[package]
    version = _version(package)
    if version is None and extra:
        return Finding(
            package,
            "missing",
            f"needed to train, to read weights and to export: pip install 'kdx[{extra},cpu]'",
        )
    if version is None:
        return Finding(
            package, "wrong", "not installed, though kdx needs it: pip install --force-reinstall kdx"
        )
    error = _import_error(module)
    if error is None:
        return Finding(package, "ok", version)
    if extra and _import_error("kdx.models", module) is None:  # kdx declares what torchvision cannot load
        remedy = _install_the_pair() if package == "torchvision" else "install torchvision as said there"
        return Finding(package, "limited", f"{version} imports inside kdx only ({error}): {remedy}")
    return Finding(
        package,
        "wrong",
        f"{version} does not import ({error}): pip install --force-reinstall {package}=={version}",
    )


def _install_the_pair() -> str:
    """How to get the torchvision that was built for the torch that is here; the two come from different indexes."""
    torchvision = (_version("torchvision") or "").partition("+")[0]
    build = (_version("torch") or "").partition("+")[2]  # "cpu" of 2.13.0+cpu: PyTorch's own index
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --force-reinstall --no-deps torchvision=={torchvision}{index}"


def _check_onnxruntime() -> Finding:
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        return Finding(
            "onnxruntime",
            "wrong",
            "onnxruntime and onnxruntime-gpu own the same module: uninstall both, then install one",
        )
    if not cpu and not gpu:
        return Finding(
            "onnxruntime",
            "missing",
            "needed to export, and to run exported models without a server: pip install 'kdx[cpu]', "
            "with an NVIDIA GPU 'kdx[gpu]'",
        )
    if error := _import_error("onnxruntime"):
        return Finding("onnxruntime", "wrong", f"{cpu or gpu} does not import ({error}): install it again")
    return Finding("onnxruntime", "ok", f"{cpu} (CPU)" if cpu else f"{gpu} (GPU)")


def _check_runtime(name: str) -> Finding:
    packages, modules, purpose = RUNTIMES[name]
    version = next((found for package in packages if (found := _version(package))), None)
    if version is None:
        return Finding(name, "missing", purpose)
    if error := _import_error(*modules):
        return Finding(name, "wrong", f"{version} does not import ({error}): {purpose}")
    return Finding(name, "ok", version)


def _check_gpu() -> Finding:
    from kdx.core.provenance import gpu_names

    names = gpu_names()
    return Finding(
        "GPU", "ok" if names else "missing", ", ".join(names) or "no NVIDIA GPU: everything runs on the CPU"
    )


def _check_triton() -> Finding:
    from kdx.core.errors import SetupError
    from kdx.serve.environment import find_triton

    try:
        return Finding("Triton", "ok", find_triton().source)
    except SetupError as error:
        return Finding("Triton", "missing", f"{error.what}: {error.remedy}")


def _check_shared_memory() -> Finding:
    from kdx.serve.environment import SHARED_MEMORY, shared_memory_shortage
    from kdx.serve.repository import SHARED_MEMORY_NEEDED

    shortage = shared_memory_shortage(SHARED_MEMORY_NEEDED)
    return Finding("shared memory", "limited" if shortage else "ok", shortage or f"{SHARED_MEMORY}")


def _check_disk() -> Finding:
    try:
        free = shutil.disk_usage(Path.cwd()).free / 2**30
    except OSError as error:
        return Finding("disk", "wrong", f"this folder cannot be read: {error.strerror}")
    return Finding("disk", "ok" if free > MIN_DISK else "wrong", f"{free:.0f} GiB free in this folder")
