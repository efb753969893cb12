"""Facts of kdx/export/branch_merging.py."""

import pytest
import torch
from torch import nn

from kdx.export.branch_merging import merge_branches
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.clip import ClipModel


def _trained(trunk: str) -> ClipModel:
    """A model whose batch norms have statistics, as after training."""
    vision = {"timm_model_name": trunk, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    text = {"width": 16, "heads": 2, "layers": 1}
    described = {"name": trunk, "embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    model = build_model(Architecture.model_validate(described))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize("trunk", ["fastvit_t8", "fastvit_mci0", "mobileone_s0", "repvit_m0_9", "levit_128s"])
def test_merged_branches_give_the_embeddings_of_the_model_as_trained(trunk: str) -> None:
    model = _trained(trunk)
    names = list(model.state_dict())
    merged = merge_branches(model)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        trained, one = (each.encode_image(pixels, normalize=True) for each in (model, merged))
    assert (trained - one).abs().max() < 1e-4
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in each.modules()) for each in (model, merged)]
    assert norms[1] < norms[0]
    assert list(model.state_dict()) == names  # the checkpoint's model stays as it was


def test_a_tower_without_branches_is_left_alone() -> None:
    for name in ("kdx-mini", "kdx-mini-vit"):
        model = build_model(read_architecture(name)).eval()
        assert merge_branches(model) is model
