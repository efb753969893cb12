"""Facts of kdx/models/timm_architectures.py."""

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.models.architecture import OPENAI_STD
from kdx.models.architectures import build_model, count_parameters, read_architecture


@pytest.mark.parametrize(
    ("name", "trunk", "size", "width"),
    [
        ("timm:resnet18", "resnet18", 224, 384),
        ("timm:efficientnet_b1+B", "efficientnet_b1", 240, 512),
        ("timm:test_vit+L", "test_vit", 160, 768),
    ],
)
def test_a_timm_name_puts_a_trunk_beside_a_text_tower(name: str, trunk: str, size: int, width: int) -> None:
    architecture = read_architecture(name)
    assert architecture.vision_cfg.timm_model_name == trunk
    assert (architecture.vision_cfg.image_size, architecture.text_cfg.width) == (size, width)
    assert architecture.preprocess.std == OPENAI_STD


@pytest.mark.parametrize(
    ("text", "millions"),  # 49,408 + 77 rows, 12 w² + 13 w a layer, the last norm and the projection to 512
    [
        ("XS", (49_485 * 192 + 4 * (12 * 192**2 + 13 * 192) + 2 * 192 + 192 * 512 + 1) / 1e6),
        ("S", (49_485 * 256 + 6 * (12 * 256**2 + 13 * 256) + 2 * 256 + 256 * 512 + 1) / 1e6),
    ],
)
def test_small_text_towers_have_fewer_layers_too(text: str, millions: float) -> None:
    assert count_parameters(read_architecture(f"timm:test_vit+{text}")).text_params / 1e6 == millions


def test_the_shipped_timm_students_are_what_their_timm_names_give() -> None:
    shipped, named = read_architecture("EfficientNet-B0"), read_architecture("timm:efficientnet_b0+T")
    assert named.changed(name=shipped.name, about=shipped.about) == shipped


@pytest.mark.parametrize("trunk", ["test_vit", "test_convnext", "test_byobnet", "mobilenetv4_conv_small"])
def test_a_timm_student_embeds(trunk: str) -> None:
    architecture = read_architecture(f"timm:{trunk}")
    size = architecture.vision_cfg.image_size
    with torch.no_grad():
        image = build_model(architecture).eval().encode_image(torch.rand(2, 3, size, size))
    assert image.shape == (2, 512) and torch.isfinite(image).all() and not torch.equal(image[0], image[1])


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("timm:resnet5+B", "timm has no model", "did you mean timm:resnet50+B?"),
        ("timm:resnet50+Q", "no text tower 'Q'", "choose XS, S, T, B, L"),
        ("timm:resnet50.a1_in1k", "published weights", "write timm:resnet50+T"),
    ],
)
def test_what_timm_does_not_have_is_refused_with_a_remedy(name: str, what: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_architecture(name)
    assert what in caught.value.what
    assert caught.value.remedy is not None and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("trunk", "reason"),
    [("qwen3_vit_88m_enc", "a language model's encoder"), ("vit_base_patch16_sapiens2", "not square")],
)
def test_a_trunk_that_has_no_vector_of_a_square_image_is_refused_with_the_reason(
    trunk: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        read_architecture(f"timm:{trunk}")


def test_a_trunk_that_fails_its_forward_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of timm 1.0.31 does, so one is broken here."""
    from kdx.models import architectures

    monkeypatch.setattr(architectures, "_fit_projection", lambda model: None)
    with pytest.raises(UsageError, match=r"timm:mobilenetv3_large_100\+T"):
        read_architecture("timm:mobilenetv3_large_100")
