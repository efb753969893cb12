"""Facts of kdx/models/masking.py."""

from typing import Any

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.clip import ClipModel
from kdx.models.masking import encode_masked_image, masking_tower

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def _built(vision: dict[str, Any]) -> ClipModel:
    described = {"name": "vit", "embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    return build_model(Architecture.model_validate(described)).eval()


@pytest.fixture
def vit() -> ClipModel:
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    return _built(vision)


def _pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _patches_that_matter(model: ClipModel, seed: int) -> torch.Tensor:
    """[B, 16] bool: the patches whose pixels have a gradient."""
    pixels = _pixels().requires_grad_()
    encode_masked_image(model, pixels, 0.75, torch.Generator().manual_seed(seed)).square().sum().backward()
    assert pixels.grad is not None
    return pixels.grad.abs().sum(dim=1).unfold(1, 8, 8).unfold(2, 8, 8).sum(dim=(-1, -2)).flatten(1) > 0


def test_a_quarter_of_the_patches_is_seen_and_others_in_each_image_and_draw(vit: ClipModel) -> None:
    seen = _patches_that_matter(vit, 0)
    assert seen.sum(dim=1).tolist() == [4, 4, 4]
    assert len({tuple(row.tolist()) for row in seen}) > 1
    assert torch.equal(seen, _patches_that_matter(vit, 0))
    assert not torch.equal(seen, _patches_that_matter(vit, 1))


def test_the_full_pass_is_left_as_it_was(vit: ClipModel) -> None:
    before = vit.encode_image(_pixels())
    masked = encode_masked_image(vit, _pixels(), 0.75, torch.Generator().manual_seed(0))
    assert torch.equal(vit.encode_image(_pixels()), before)
    assert (masked - before).abs().max() > 1e-3


def test_hiding_nothing_in_effect_gives_the_full_embedding(vit: ClipModel) -> None:
    almost_none = encode_masked_image(vit, _pixels(), 0.01, torch.Generator().manual_seed(0))
    assert torch.allclose(almost_none, vit.encode_image(_pixels()), atol=1e-5)  # the order of patches is free


def test_a_timm_vit_can_be_masked() -> None:
    vision = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    model = _built(vision)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    full = model.encode_image(pixels)
    masked = encode_masked_image(model, pixels, 0.75, torch.Generator().manual_seed(0))
    assert masked.shape == full.shape and (masked - full).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["kdx-mini", "RN50", "Swin-T", "MobileViT-S"])
def test_towers_without_patches_are_refused_with_a_remedy(name: str) -> None:
    with torch.device("meta"):
        model = build_model(read_architecture(name))
    with pytest.raises(UsageError) as refused:
        masking_tower(model)
    assert "objective.mfd = 0" in str(refused.value.remedy)


def test_an_image_shows_in_any_part_of_a_batch_what_it_shows_in_the_whole(vit: ClipModel) -> None:
    whole = encode_masked_image(vit, _pixels(), 0.75, torch.Generator().manual_seed(0))
    for places in ([0], [2], [2, 1]):
        generator = torch.Generator().manual_seed(0)
        part = encode_masked_image(vit, _pixels()[places], 0.75, generator, torch.tensor(places))
        assert torch.allclose(part, whole[places], atol=1e-6)
