"""What differs between devices: where a run computes, in which precision, and how its data gets there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from kdx.core.errors import UsageError

from .recipe import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """The device of a run and the precision of its towers; weights, logits, losses and the optimiser are fp32."""

    place: torch.device
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.place) if self.is_gpu else "cpu"

    @property
    def is_gpu(self) -> bool:
        return self.place.type == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The towers run in this: matrix products in the precision, what needs range in fp32."""
        return torch.autocast(self.place.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps fp16's small gradients from vanishing; does nothing in other precisions."""
        return torch.amp.GradScaler(self.place.type, enabled=self.precision == "fp16")

    def block_cost(self, text_width: int) -> float:
        """What one more pass through the text tower costs beside its tokens, in tokens of a tower so wide.

        A layer computes 72 · width² FLOPs a token, forward and backward. What it costs in any case is starting its
        kernels, and adding up the gradients of its 12 · width² weights, 144 · width² bytes: more threads compute
        faster, but start no kernel sooner. On a CPU this gives 54 tokens at width 384 with one thread and 108 with
        two, where 53 and some 90 were measured, and at width 64 186 and 371 (180 to 244, and 180 to 800). bf16 halves
        what a token costs and not what a pass costs (docs/benchmarks/precision.md). The numbers of a GPU are estimates.
        """
        if self.is_gpu:
            seconds, flops, bytes_ = 300e-6, 1e14, 2.5e12  # a layer; a second
        else:
            speed = 2e11 if self.precision == "bf16" else 1e11  # of a thread
            seconds, flops, bytes_ = 400e-6, speed * torch.get_num_threads(), 4e9
        return seconds * flops / (72 * text_width**2) + 2 * flops / bytes_

    def copied(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device. A GPU copies it while the program goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.place, non_blocking=True) if self.is_gpu else tensor

    def fork_rng(self) -> contextlib.AbstractContextManager[Any]:
        """In this, seeding torch's generators leaves them as they were afterwards."""
        return torch.random.fork_rng(devices=[self.place.index or 0] if self.is_gpu else [])


def find_device(precision: Precision | None = None) -> Device:
    """This process's GPU, or else the CPU; precision None: what fits it.

    bf16 on a GPU that computes in it, fp16 on an older one, fp32 on a CPU, where bf16 is fast on few. Raises UsageError
    for a precision that the device does not have.
    """
    if not torch.cuda.is_available():
        if precision == "fp16":
            raise UsageError('precision = "fp16" needs a GPU', remedy='set precision = "fp32" or "bf16"')
        return Device(torch.device("cpu"), precision or "fp32")
    place = torch.device("cuda", torch.cuda.current_device())
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise UsageError(
            f'precision = "bf16": {torch.cuda.get_device_name(place)} does not compute in it',
            remedy='set precision = "fp16"',
        )
    return Device(place, precision or ("bf16" if has_bf16 else "fp16"))
