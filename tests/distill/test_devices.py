"""Facts of distill/devices.py, without a GPU."""

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.distill.devices import Device, find_device


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU that is only asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    return monkeypatch


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_computes_in_bf16_or_else_in_fp16(
    gpu: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    assert find_device().precision == expected and find_device("fp32").precision == "fp32"
    assert find_device().place == torch.device("cuda", 1)


def test_what_a_device_does_not_compute_in_is_refused(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(UsageError, match="Some GPU"):
        find_device("bf16")
    gpu.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="fp16"):
        find_device("fp16")


def test_a_cpu_computes_in_fp32_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device().precision == "fp32"
    device = find_device("bf16")
    with device.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert not device.scaler().is_enabled()


def test_a_pass_through_the_text_tower_costs_more_tokens_on_more_threads_and_in_narrow_towers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = Device(torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [round(cpu.block_cost(width)) for width in (384, 64)] == [54, 186]
    assert Device(cpu.place, "bf16").block_cost(384) == 2 * cpu.block_cost(384)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert [round(cpu.block_cost(width)) for width in (384, 64)] == [108, 371]
