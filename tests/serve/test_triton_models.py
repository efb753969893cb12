"""Facts of serve/triton_models that need no server; test_served.py and test_load.py ask a real one."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from kdx.serve.repository import write_repository

# Triton's own module exists inside its server alone
STUCK = """
import sys, time, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
from kdx.serve.triton_models.requests import ended_when_stuck

with ended_when_stuck(30):
    pass
print("went on", flush=True)
with ended_when_stuck(0.2):
    time.sleep(60)
"""


def test_an_instance_that_is_stuck_ends_itself_and_tells_where() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stdout == "went on\n" and done.returncode == 1
    assert 'File "<string>", line 10' in done.stderr


@pytest.mark.parametrize(("cores", "instances", "threads"), [(2, 2, 1), (8, 2, 4), (1, 2, 1), (7, 3, 2)])
def test_the_instances_of_a_model_share_the_cores(
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    instances: int,
    threads: int,
) -> None:
    backend = types.ModuleType("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    from kdx.serve.triton_models import requests

    monkeypatch.setattr(requests, "cpu_count", lambda: cores)
    repository = write_repository(exported_model, tmp_path / "repository")
    config = json.dumps({"instance_group": [{"count": instances, "kind": "KIND_CPU"}]})
    args = {"model_instance_kind": "CPU", "model_config": config}
    with requests.open_encoder(
        {**args, "model_repository": str(repository / "models/embed_image")}
    ) as encoder:
        assert vars(encoder)["_num_threads"] == threads


@pytest.mark.parametrize(
    ("shown", "device", "expected"),
    [(None, 1, "1"), ("2,3", 1, "3"), ("GPU-a, GPU-b", 1, "GPU-b"), ("5", 0, "5")],
)
def test_an_instance_sees_the_gpu_that_triton_means(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, device: int, expected: str
) -> None:
    """Triton counts those that CUDA_VISIBLE_DEVICES shows to it."""
    backend = types.ModuleType("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    from kdx.serve.triton_models.requests import show_one_gpu

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown or "")
    show_one_gpu(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
