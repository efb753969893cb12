"""Facts of kdx/models/flops.py."""

import pytest

from kdx.core.errors import UsageError
from kdx.models.architectures import read_architecture
from kdx.models.flops import count_flops

# GFLOP of an image and a text of 77 tokens without the attention products, as measured by other means for CLIP-KD's
# models, and the number of the last digit; then the image tower's attention products by hand: 4 N² · width for each
# layer, N the number of tokens (197 for ViT-*/16), twice the multiply-adds of q kᵀ and of the product with v.
# MobileViT: at each of its three scales 4 groups of N = 196, 49 and 16 patches.
# RN50, RN101: the pooling's one query sees 7 · 7 + 1 places, 2048 wide. Swin-T's attention is in the first number.
GFLOPS = {
    "ViT-L-14": (155.5, 13.1, 1, 4 * 257**2 * 1024 * 24),
    "ViT-B-16": (33.7, 5.8, 1, 4 * 197**2 * 768 * 12),
    "ViT-T-16": (2.15, 3.27, 2, 4 * 197**2 * 192 * 12),
    "RN101": (19.5, 5.8, 1, 4 * 50 * 2048),
    "RN50": (12.2, 5.8, 1, 4 * 50 * 2048),
    "ResNet-18": (3.63, 3.27, 2, 0),
    "MobileViT-S": (2.83, 3.27, 2, 16 * (196**2 * 144 * 2 + 49**2 * 192 * 4 + 16**2 * 240 * 3)),
    "MobileViT-XXS": (0.51, 3.27, 2, 16 * (196**2 * 64 * 2 + 49**2 * 80 * 4 + 16**2 * 96 * 3)),
    "Swin-T": (8.98, 3.27, 2, 0),
    "MobileNetV3-S": (0.12, 3.27, 2, 0),
    "EfficientNet-B0": (0.77, 3.27, 2, 0),
}
TEXT_WIDTH = {13.1: 768, 5.8: 512, 3.27: 384}


@pytest.mark.parametrize("name", GFLOPS)
def test_counts_are_the_known_ones_with_attention_on_top(name: str) -> None:
    image, text, digits, attention = GFLOPS[name]
    half = 0.51 * 10**-digits  # rounding of the known number
    if name == "MobileNetV3-S":
        half = 0.01  # known only as about 0.12
    counted = count_flops(read_architecture(name))
    assert (counted.image - attention) / 1e9 == pytest.approx(image, abs=half)
    assert (counted.text - 4 * 77**2 * TEXT_WIDTH[text] * 12) / 1e9 == pytest.approx(text, abs=half)


def test_a_short_text_costs_its_share() -> None:
    whole, short = (
        count_flops(read_architecture("ViT-T-16")),
        count_flops(read_architecture("ViT-T-16"), text_length=16),
    )
    assert short.image == whole.image
    assert short.text / 1e9 == pytest.approx(0.68, abs=0.01)


def test_hidden_patches_are_not_paid_for() -> None:
    counted = count_flops(read_architecture("ViT-T-16"), mask_ratio=0.75)
    kept = 1 + 49  # of 197 tokens
    blocks = 12 * (24 * kept * 192**2 + 4 * kept**2 * 192)
    patches = 2 * 196 * 192 * 3 * 16 * 16  # all of them are embedded before some are hidden
    assert counted.masked_image == blocks + patches + 2 * 192 * 512
    assert count_flops(read_architecture("ViT-T-16")).masked_image == 0


def test_a_mask_needs_patches() -> None:
    with pytest.raises(UsageError) as caught:
        count_flops(read_architecture("kdx-mini"), mask_ratio=0.5)
    assert "objective.mfd" in str(caught.value.remedy)


def test_siglips_pooling_is_counted() -> None:
    """One query on 196 patches, 768 wide: keys, values and products with them; the query, its projection and an MLP."""
    counted = count_flops(read_architecture("ViT-B-16-SigLIP2"))
    width, patches = 768, 196
    pooling = (
        2 * 2 * patches * width**2 + 2 * width**2 + 4 * patches * width + 2 * width**2 + 2 * 2 * 4 * width**2
    )
    layer = 2 * 12 * patches * width**2 + 4 * patches**2 * width
    patching = 2 * patches * 3 * 16**2 * width
    assert counted.image == 12 * layer + patching + pooling
