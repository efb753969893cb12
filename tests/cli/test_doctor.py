"""Facts of `kdx doctor`: what is missing is not wrong, what is wrong exits 5, and an import is really tried."""

import json
import re
import tomllib
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from kdx.cli import doctor, main
from kdx.core import provenance
from kdx.serve import environment


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine on which all is well, without GPU and Triton; packages by their version."""
    packages = {**dict.fromkeys(doctor.PACKAGES, "1.0"), "onnxruntime": "1.0"}
    monkeypatch.setattr(doctor, "_version", packages.get)
    _break_imports(monkeypatch, {})
    monkeypatch.setattr(provenance, "gpu_names", list)
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    _set_free_space(monkeypatch, 100)
    return packages


def _break_imports(monkeypatch: pytest.MonkeyPatch, errors: dict[tuple[str, ...], str]) -> None:
    monkeypatch.setattr(doctor, "_import_error", lambda *modules: errors.get(modules))


def _set_free_space(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    usage = namedtuple("usage", "free")(gib * 2**30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)


def _findings(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["machine"]["python"] and document["machine"]["cpu_count"] >= 1
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, {finding["subject"]: finding for finding in document["findings"]}


def test_what_is_missing_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = _findings(capsys)
    assert code == 0
    missing = {name for name, finding in findings.items() if finding["state"] == "missing"}
    assert missing == {"GPU", "Triton", *doctor.RUNTIMES}
    assert {finding["state"] for finding in findings.values()} == {"ok", "missing"}


def test_a_plain_installation_is_whole_and_names_its_extras(
    installed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for package, (_, extra) in doctor.PACKAGES.items():
        if extra:
            installed[package] = None
    installed["onnxruntime"] = None
    code, findings = _findings(capsys)
    assert code == 0
    assert findings["torch"]["state"] == findings["onnxruntime"]["state"] == "missing"
    assert "kdx[train,cpu]" in findings["torch"]["detail"]
    assert "kdx[cpu]" in findings["onnxruntime"]["detail"]


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(provenance, "gpu_names", lambda: ["NVIDIA H100", "NVIDIA T4"])
    _, findings = _findings(capsys)
    assert (findings["GPU"]["state"], findings["GPU"]["detail"]) == ("ok", "NVIDIA H100, NVIDIA T4")


def test_runtimes_of_one_format_are_told_with_what_they_are_for(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed["tensorrt-rtx-cu13-bindings"] = "1.7"
    _, findings = _findings(capsys)
    assert (findings["TensorRT-RTX"]["state"], findings["TensorRT-RTX"]["detail"]) == ("ok", "1.7")
    assert "--format trt " in findings["TensorRT"]["detail"]
    _break_imports(monkeypatch, {("tensorrt_rtx", "cuda.bindings.runtime"): "ImportError: libcudart.so.13"})
    code, findings = _findings(capsys)
    assert code == 5 and findings["TensorRT-RTX"]["state"] == "wrong"


def test_every_runtime_names_the_extra_of_pyproject_that_brings_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for packages, _, purpose in doctor.RUNTIMES.values():
        (extra,) = re.findall(r"kdx\[([a-z-]+)\]", purpose)
        brought = " ".join(extras[extra])
        assert any(package.removesuffix("-bindings") in brought for package in packages) or extra == "trt"


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"tritonclient": None}, "tritonclient"),
        ({"onnxruntime-gpu": "1.0"}, "onnxruntime"),  # beside onnxruntime: both own one module
    ],
)
def test_packages_that_break_kdx_exit_5(
    installed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str | None],
    subject: str,
) -> None:
    installed.update(change)
    code, findings = _findings(capsys)
    assert code == 5 and findings[subject]["state"] == "wrong"


def test_a_package_that_is_installed_but_does_not_import_exits_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "ImportError: libgomp.so.1"
    _break_imports(monkeypatch, {("torch",): broken, ("kdx.models", "torch"): broken})
    code, findings = _findings(capsys)
    assert code == 5 and findings["torch"]["state"] == "wrong" and broken in findings["torch"]["detail"]
    assert findings["timm"]["state"] == "ok"


@pytest.mark.parametrize(
    ("torch", "remedy"),
    [
        ("2.13.0+cpu", "torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cpu"),
        ("2.13.0", "torchvision==0.28.0"),
    ],
)
def test_what_only_kdx_can_import_is_limited_and_the_pair_is_named(
    torch: str,
    remedy: str,
    installed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed |= {"torch": torch, "torchvision": "0.28.0+cu128"}
    broken = "RuntimeError: operator torchvision::nms does not exist"
    _break_imports(monkeypatch, {("torchvision",): broken, ("open_clip",): broken})
    code, findings = _findings(capsys)
    assert code == 0
    assert findings["torchvision"]["state"] == findings["open_clip_torch"]["state"] == "limited"
    assert findings["torchvision"]["detail"].endswith(remedy) and broken in findings["torchvision"]["detail"]


def test_little_shared_memory_is_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "shared_memory_shortage", lambda needed: f"less than {needed} bytes")
    code, findings = _findings(capsys)
    assert code == 0 and findings["shared memory"]["state"] == "limited"


def test_a_full_disk_exits_5(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _set_free_space(monkeypatch, 1)
    code, findings = _findings(capsys)
    assert code == 5 and findings["disk"]["state"] == "wrong" and "1 GiB" in findings["disk"]["detail"]


def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home(*_: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("KDX_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    code, findings = _findings(capsys)
    assert code == 0
    assert findings["Triton"]["state"] == "missing" and "KDX_CACHE" in findings["Triton"]["detail"]


def test_the_text_has_a_line_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = _findings(capsys)
    with pytest.raises(SystemExit):
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [each["state"] for each in findings.values()]
    for line, finding in zip(lines, findings.values(), strict=True):
        assert finding["subject"] in line and line.endswith(finding["detail"])


class TestImports:
    """A package is really imported, in another process."""

    @pytest.fixture(autouse=True)
    def real(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setattr(doctor, "_import_error", IMPORT_ERROR)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("", None),
            (
                "raise RuntimeError('operator nms does not exist')",
                "RuntimeError: operator nms does not exist",
            ),
            ("import os; os._exit(3)", "exit code 3"),
            ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ],
    )
    def test_why_it_fails_is_said(self, code: str, reason: str | None, real: Path) -> None:
        (real / "fragile.py").write_text(code)
        error = doctor._import_error("fragile")
        assert error == reason or (reason and error and reason in error)

    def test_one_module_may_prepare_the_next(self, real: Path) -> None:
        (real / "first.py").write_text("import builtins; builtins.prepared = True")
        (real / "second.py").write_text("prepared")
        assert doctor._import_error("second") and doctor._import_error("first", "second") is None


IMPORT_ERROR = doctor._import_error
