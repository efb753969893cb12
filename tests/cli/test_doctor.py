"""Facts of `kdx doctor`: what is missing is not wrong, and what is wrong exits 5."""

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from kdx.cli import doctor, main
from kdx.core import provenance

FOUND = dict.fromkeys(("torch", "open_clip_torch", "timm", "onnx", "onnxscript", "tokenizers"), "1.0")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine on which all is well, without GPU, TensorRT and Triton; packages by their version."""
    packages = {**FOUND, "tritonclient": "1.0", "onnxruntime": "1.0"}
    monkeypatch.setattr(doctor, "_version", packages.get)
    monkeypatch.setattr(provenance, "gpu_names", list)
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    _set_free_space(monkeypatch, 100)
    return packages


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


def test_what_is_missing_says_what_does_not_work_and_is_no_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, findings = _findings(capsys)
    assert code == 0
    assert {finding["state"] for finding in findings.values()} == {"ok", "missing"}
    assert findings["onnxruntime"]["detail"] == "1.0 (CPU)"
    assert "everything runs on the CPU" in findings["GPU"]["detail"]
    assert "no TensorRT export" in findings["tensorrt"]["detail"]
    assert "no Triton binary" in findings["Triton"]["detail"] or "needs" in findings["Triton"]["detail"]


def test_what_is_there_is_named(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "gpu_names", lambda: ["NVIDIA H100", "NVIDIA T4"])
    installed["tensorrt"] = "10.1"
    code, findings = _findings(capsys)
    assert code == 0
    assert (findings["GPU"]["state"], findings["GPU"]["detail"]) == ("ok", "NVIDIA H100, NVIDIA T4")
    assert (findings["tensorrt"]["state"], findings["tensorrt"]["detail"]) == ("ok", "10.1")


@pytest.mark.parametrize(
    ("change", "subject", "detail"),
    [
        ({"torch": None}, "torch", "not installed; reinstall kdx"),
        ({"onnxruntime": None}, "onnxruntime", "kdx[cpu]"),
        ({"onnxruntime-gpu": "1.0"}, "onnxruntime", "uninstall both, install one"),
    ],
)
def test_packages_that_break_kdx_exit_5(
    installed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str | None],
    subject: str,
    detail: str,
) -> None:
    installed.update(change)
    code, findings = _findings(capsys)
    assert code == 5
    assert findings[subject]["state"] == "wrong" and detail in findings[subject]["detail"]


def test_a_full_disk_exits_5(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _set_free_space(monkeypatch, 1)
    code, findings = _findings(capsys)
    assert code == 5 and findings["disk"] == {
        "subject": "disk",
        "state": "wrong",
        "detail": "1 GiB free here",
    }


def test_the_text_has_a_line_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0
    subjects = [*FOUND, "tritonclient", "onnxruntime", "GPU", "tensorrt", "Triton", "disk"]
    assert [line.split()[1] for line in lines] == subjects
    assert all(line.split()[0] in ("ok", "missing") for line in lines)
