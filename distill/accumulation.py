"""Gradients of a batch that is too large for the memory, in the order of GradCache (arXiv 2101.06983).

All pairs of the batch stay each other's negatives: the losses see the embeddings of the whole batch. So the towers run
twice over its parts, first without gradient for the embeddings, then with gradient for what the loss says of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .objective import Embeddings


@dataclass(frozen=True)
class Pulled:
    """Gradients of the loss by the embeddings of a part. outside: by parameters outside the towers, once a batch."""

    image: Tensor
    text: Tensor
    masked_image: Tensor | None
    outside: Sequence[tuple[Tensor, Tensor]] = ()

    def product(self, student: Embeddings) -> Tensor:
        """A scalar whose gradient is that of the loss."""
        total = (student.image * self.image).sum() + (student.text * self.text).sum()
        if student.masked_image is not None and self.masked_image is not None:
            total = total + (student.masked_image * self.masked_image).sum()
        for parameter, gradient in self.outside:
            total = total + (parameter * gradient).sum()
        return total


def backward_in_parts(
    distillation: nn.Module,
    parts: Sequence[Any],
    teachers: Sequence[Embeddings],
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """Leaves in each parameter the gradient that the undivided batch would, and returns its numbers.

    distillation: a Distillation, or what `Ranks.share` made of one. parts: its Inputs. Random numbers are the same in
    both passes, since each part seeds its own; batch statistics are those of a part, noted in the first pass alone.
    """
    shared = isinstance(distillation, DistributedDataParallel)
    inner: Any = distillation.module if shared else distillation
    with torch.no_grad():
        embedded: list[Embeddings] = [inner.embed(part) for part in parts]
    leaves = _leaves(embedded)
    numbers = inner.judge(inner.with_scale(*leaves), teachers)
    outside = [parameter for parameter in inner.parameters_outside_towers() if parameter.requires_grad]
    wanted = [*(leaf for leaf in leaves if leaf is not None), *outside]
    found = torch.autograd.grad(scaler.scale(numbers["loss"]), wanted, allow_unused=True)
    gradients = dict(zip(map(id, wanted), found, strict=True))
    known = [(each, gradients[id(each)]) for each in outside if gradients[id(each)] is not None]
    by_part = zip(*(_split(leaf, gradients, embedded) for leaf in leaves), strict=True)
    with _statistics_kept(inner):
        for number, (part, pulled) in enumerate(zip(parts, by_part, strict=True), 1):
            last = number == len(parts)
            with distillation.no_sync() if shared and not last else contextlib.nullcontext():
                product = distillation(part, pulled=Pulled(*pulled, outside=known if last else ()))
                product["loss"].backward()
    return numbers


def _leaves(embedded: Sequence[Embeddings]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Image, text and, if there are, masked image embeddings of the whole batch, as leaves of a new graph."""
    image, text = (torch.cat([getattr(each, name) for each in embedded]) for name in ("image", "text"))
    masked = [each.masked_image for each in embedded if each.masked_image is not None]
    return (
        image.requires_grad_(),
        text.requires_grad_(),
        torch.cat(masked).requires_grad_() if masked else None,
    )


def _split(
    leaf: Tensor | None, gradients: Mapping[int, Tensor | None], embedded: Sequence[Embeddings]
) -> Sequence[Tensor | None]:
    """The gradient of each part."""
    if leaf is None:
        return [None] * len(embedded)
    gradient = gradients[id(leaf)]
    whole = torch.zeros_like(leaf) if gradient is None else gradient
    return whole.split([len(each.image) for each in embedded])


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """In this, batch norms use the statistics of a batch, and note nothing of it."""
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
