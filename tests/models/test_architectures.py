"""Facts of kdx/models/architectures.py."""

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.models.architectures import (
    Architecture,
    build_model,
    count_parameters,
    read_architecture,
    shipped_names,
)

# Image and text parameters as published for CLIP-KD's models (with the logit scale among the text parameters).
PUBLISHED = {
    "ViT-L-14": (303_966_208, 123_650_305),
    "ViT-B-16": (86_192_640, 63_428_097),
    "ViT-T-16": (5_622_912, 40_493_185),
    "RN101": (56_259_936, 63_428_097),
    "RN50": (38_316_896, 63_690_241),
    "ResNet-18": (11_438_656, 40_493_185),
    "MobileViT-S": (5_265_312, 40_493_185),
    "MobileViT-XXS": (1_114_864, 40_493_185),
    "Swin-T": (27_912_570, 40_493_185),
    "MobileNetV3-S": (2_042_144, 40_493_185),
    "EfficientNet-B0": (4_662_908, 40_493_185),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    counts = count_parameters(read_architecture(name))
    assert (counts.image_params, counts.text_params) == PUBLISHED[name]
    assert counts.total_params == sum(PUBLISHED[name])


@pytest.mark.parametrize("name", shipped_names())
def test_both_towers_put_out_the_declared_width(name: str) -> None:
    """On torch's meta device, which checks every shape of the forward pass and computes nothing."""
    architecture = read_architecture(name)
    size = architecture.vision_cfg.image_size
    with torch.device("meta"), torch.no_grad():
        model = build_model(read_architecture(name)).eval()
        image = model.encode_image(torch.zeros(2, 3, size, size))
        text = model.encode_text(torch.zeros(2, 9, dtype=torch.long))
    assert image.shape == text.shape == (2, architecture.embed_dim)


SMALL = ["ViT-T-16", "ResNet-18", "MobileViT-XXS", "Swin-T", "MobileNetV3-S", "EfficientNet-B0", "kdx-mini"]


@pytest.mark.parametrize("name", SMALL)
def test_a_forward_pass_tells_images_apart(name: str) -> None:
    architecture = read_architecture(name)
    size = architecture.vision_cfg.image_size
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = build_model(read_architecture(name)).eval().encode_image(pixels)
    assert image.shape == (2, architecture.embed_dim)
    assert torch.isfinite(image).all() and not torch.equal(image[0], image[1])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    mini = read_architecture("kdx-mini")
    first = build_model(mini, seed=3).state_dict()
    torch.manual_seed(2)
    second, other = build_model(mini, seed=3).state_dict(), build_model(mini, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_model(read_architecture("kdx-mini"), seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_no_weights_are_fetched_whatever_a_description_says() -> None:
    described = read_architecture("timm:test_vit").to_dict()  # timm has weights of it on its hub
    described["vision_cfg"]["timm_model_pretrained"] = True
    with torch.device("meta"):
        model = build_model(Architecture.model_validate(described))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-T/16", "ViT-T-16"),
        ("ViT-B/32", "ViT-B-32"),
        ("kdx-minni", "kdx-mini"),
        ("resnet50+B", "timm:resnet50+B"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_architecture(name)
    assert caught.value.remedy == f"did you mean {nearest}?"
