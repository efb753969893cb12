"""`kdx doctor`: what this machine has, and what is missing for which part of kdx."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from .output import print_json


@dataclass(frozen=True)
class Finding:
    """One line: ok, missing (a part of kdx does not work) or wrong (results may be wrong)."""

    subject: str
    state: str
    detail: str


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Check what this machine has and what is missing; exit 5 if something is wrong.

    Example: kdx doctor
    """
    findings = [
        *_check_packages(),
        _check_onnxruntime(),
        _check_gpu(),
        _check_tensorrt(),
        _check_triton(),
        _check_space(),
    ]
    if as_json:
        from kdx.core.provenance import collect_provenance

        print_json({"findings": [asdict(f) for f in findings], "machine": collect_provenance()})
    else:
        width = max(len(finding.subject) for finding in findings)
        colours = {"ok": "green", "missing": "yellow", "wrong": "red"}
        for finding in findings:
            state = click.style(f"{finding.state:<7}", fg=colours[finding.state])
            click.echo(f"{state}  {finding.subject:<{width}}  {finding.detail}")
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(5)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_packages() -> list[Finding]:
    findings: list[Finding] = []
    for name in ("torch", "open_clip_torch", "timm", "onnx", "onnxscript", "tokenizers", "tritonclient"):
        version = _version(name)
        state = "ok" if version else "wrong"
        findings.append(Finding(name, state, version or "not installed; reinstall kdx"))
    return findings


def _check_onnxruntime() -> Finding:
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        return Finding(
            "onnxruntime",
            "wrong",
            "onnxruntime and onnxruntime-gpu own the same module: uninstall both, install one",
        )
    if not cpu and not gpu:
        return Finding("onnxruntime", "wrong", "not installed: pip install 'kdx[cpu]' or 'kdx[gpu]'")
    return Finding("onnxruntime", "ok", f"{cpu} (CPU)" if cpu else f"{gpu} (GPU)")


def _check_gpu() -> Finding:
    from kdx.core.provenance import gpu_names

    names = gpu_names()
    return Finding(
        "GPU", "ok" if names else "missing", ", ".join(names) or "no NVIDIA GPU: everything runs on the CPU"
    )


def _check_tensorrt() -> Finding:
    version = _version("tensorrt")
    return Finding("tensorrt", "ok" if version else "missing", version or "not installed: no TensorRT export")


def _check_triton() -> Finding:
    from kdx.core.errors import SetupError
    from kdx.serve.environment import find_triton

    try:
        return Finding("Triton", "ok", find_triton().source)
    except SetupError as error:
        return Finding("Triton", "missing", f"{error.what}: {error.remedy}")


def _check_space() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", "ok" if free > 2 else "wrong", f"{free:.0f} GiB free here")
