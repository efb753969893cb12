"""Facts of distill/peaks.py."""

import pytest
import torch

from kdx.distill.devices import Device
from kdx.distill.peaks import peak_flops

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA A10G", None),  # slower than an A10
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_peak_is_known_or_left_out(monkeypatch: pytest.MonkeyPatch, name: str, tera: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: name)
    assert peak_flops(Device(GPU, "fp16")) == (None if tera is None else tera * 1e12)
    assert peak_flops(Device(GPU, "fp32")) is None and peak_flops(Device(CPU, "bf16")) is None
