"""What GPUs can compute at most, to tell how much of it a run uses.

Matrix products in bf16 or fp16 with sums in fp32, dense, from NVIDIA's data sheets, which give most of them with 2:4
sparsity, at twice the rate. A GPU that is not here, or a slice of one (MIG), has no number, and so have fp32, where
convolutions run in TF32 and matrix products do not, and CPUs, whose clock depends on the instructions.
"""

from __future__ import annotations

import re

from .devices import Device

TERAFLOPS = {
    r"NVIDIA (HGX )?B200": 2250,
    r"NVIDIA GH200 \S+": 989,
    r"NVIDIA H200": 989,
    r"NVIDIA H100 80GB HBM3": 989,
    r"NVIDIA H100 PCIe": 756,
    r"NVIDIA H100 NVL": 835,
    r"(NVIDIA )?A100[- ].*": 312,
    r"NVIDIA A40": 149.7,
    r"NVIDIA A30": 165,
    r"NVIDIA A10": 125,
    r"NVIDIA L40S": 362,
    r"NVIDIA L40": 181,
    r"NVIDIA L4": 121,
    r"Tesla V100-SXM2.*": 125,
    r"Tesla V100-PCIE.*": 112,
    r"Tesla T4": 65,
}


def peak_flops(device: Device) -> float | None:
    """A second, in the precision of the run; None where it is not known."""
    if not device.is_gpu or device.precision == "fp32" or "MIG" in device.name:
        return None
    return next(
        (1e12 * peak for pattern, peak in TERAFLOPS.items() if re.fullmatch(pattern, device.name)), None
    )
