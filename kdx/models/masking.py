"""Image embeddings from a part of the patches, for masked feature distillation (arXiv 2307.12732, MFD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdx.core.errors import UsageError

from .architectures import Architecture, build_model
from .clip import ClipModel


def masking_tower(model: ClipModel) -> nn.Module:
    """The part of the image tower whose patches can be hidden. Raises UsageError if it has none.

    That is open_clip's ViT, or timm's with a class token; both keep the place for a patch dropout.
    """
    tower = getattr(model.visual, "trunk", model.visual)
    if _slot(tower) is None:
        raise UsageError(
            f"the image tower {type(tower).__name__} has no patches to hide, mfd needs a ViT",
            remedy="set objective.mfd = 0 (fd is the same without a mask), or choose a ViT student",
        )
    return tower


def check_masking(architecture: Architecture) -> None:
    """Raises UsageError for an architecture whose patches cannot be hidden; allocates nothing."""
    with torch.device("meta"):
        masking_tower(build_model(architecture))


def encode_masked_image(
    model: ClipModel, pixels: Tensor, ratio: float, generator: torch.Generator, places: Tensor | None = None
) -> Tensor:
    """pixels: float [B, 3, S, S], normalised. Returns [B, D], not normalised.

    Each image shows the tower its class token and round((1 − ratio) · patches) patches, at least one, which the
    generator (on the CPU) draws; hidden patches are left out, as in FLIP (arXiv 2212.00794), so this costs
    less than a full pass. places: int64 [B], where the images stand in the batch that is drawn for, so that they see in
    any part of it what they see in the whole; in their order if not given.
    """
    tower = masking_tower(model)
    slot = _slot(tower)
    assert slot is not None
    usual = getattr(tower, slot)
    setattr(
        tower, slot, _KeptPatches(ratio, generator, torch.arange(len(pixels)) if places is None else places)
    )
    try:
        return model.encode_image(pixels)
    finally:
        setattr(tower, slot, usual)


class _KeptPatches(nn.Module):
    """[B, 1 + N, W] → [B, 1 + kept, W]: the class token and a random part of the patches, another in each row."""

    def __init__(self, ratio: float, generator: torch.Generator, places: Tensor) -> None:
        super().__init__()
        self.ratio, self.generator, self.places = ratio, generator, places

    def forward(self, x: Tensor) -> Tensor:
        batch, count = x.shape[0], x.shape[1] - 1
        kept = max(1, round((1 - self.ratio) * count))
        drawn = torch.rand(int(self.places.max()) + 1, count, generator=self.generator)[self.places]
        order = drawn.argsort(dim=-1)[:, :kept]
        index = torch.cat((torch.zeros(batch, 1, dtype=torch.long), 1 + order), dim=-1)
        index = index.to(x.device, non_blocking=True)
        return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _slot(tower: nn.Module) -> str | None:
    """The name of the tower's patch dropout, where its input is a class token and then patches."""
    for name, class_token in (("patch_dropout", "class_embedding"), ("patch_drop", "cls_token")):
        if hasattr(tower, name) and getattr(tower, class_token, None) is not None:
            return name
    return None
