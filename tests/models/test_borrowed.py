"""Facts of kdx/models/borrowed.py: architectures of open_clip and timm by name."""

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.models.architectures import (
    OPENAI_MEAN,
    OPENAI_STD,
    build_model,
    count_parameters,
    names,
    preprocess_of,
    read_architecture,
)


@pytest.mark.parametrize(
    ("name", "total"),
    [  # open_clip's own table, docs/model_profile.csv, in millions
        ("ViT-B-32", 151.28),
        ("ViT-L-14-336", 427.94),
        ("RN50x4", 178.3),
        ("convnext_base", 151.52),
        ("EVA02-B-16", 149.69),
    ],
)
def test_an_open_clip_name_builds_open_clips_model(name: str, total: float) -> None:
    assert count_parameters(name).total_params / 1e6 == pytest.approx(total, abs=0.01)


def test_quickgelu_is_carried() -> None:
    plain, quick = (repr(_meta(name).visual) for name in ("ViT-B-32", "ViT-B-32-quickgelu"))
    assert "QuickGELU" in quick and "QuickGELU" not in plain


def test_shipped_names_come_first_and_only_they_are_listed() -> None:
    assert "about" in read_architecture("ViT-B-16")
    assert "ViT-B-32" not in names()


@pytest.mark.parametrize(
    ("name", "mean", "interpolation", "resize_mode"),
    [
        ("ViT-B-32", OPENAI_MEAN, "bicubic", "shortest"),
        ("ViT-H-14-378", OPENAI_MEAN, "bicubic", "squash"),
        ("PE-Core-T-16-384", (0.5, 0.5, 0.5), "bilinear", "squash"),
        ("MobileCLIP-B", (0.0, 0.0, 0.0), "bilinear", "shortest"),
        ("ViT-H-14", OPENAI_MEAN, "bicubic", "shortest"),  # its published weights disagree: CLIP's own
        ("ViT-S-32", OPENAI_MEAN, "bicubic", "shortest"),  # no published weights: CLIP's own
    ],
)
def test_preprocessing_is_that_of_the_published_weights(
    name: str, mean: tuple[float, ...], interpolation: str, resize_mode: str
) -> None:
    found = preprocess_of(read_architecture(name))
    assert (found.mean, found.interpolation, found.resize_mode) == (mean, interpolation, resize_mode)


def test_moving_the_text_tower_to_the_top_changes_no_embedding() -> None:
    """Why `custom_text` can be dropped."""
    from open_clip.model import CustomTextCLIP

    architecture = read_architecture("kdx-mini")
    theirs = CustomTextCLIP(*(architecture[key] for key in ("embed_dim", "vision_cfg", "text_cfg"))).eval()
    ours = build_model(architecture).eval()
    ours.load_state_dict({name.removeprefix("text."): v for name, v in theirs.state_dict().items()})
    tokens = torch.tensor([[49406, 320, 1125, 49407] + [0] * 28])
    with torch.no_grad():
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
        pixels = torch.rand(2, 3, 32, 32)
        assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))


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
    assert architecture["vision_cfg"]["timm_model_name"] == trunk
    assert architecture["vision_cfg"]["timm_model_pretrained"] is False
    assert (architecture["vision_cfg"]["image_size"], architecture["text_cfg"]["width"]) == (size, width)
    assert preprocess_of(architecture).std == OPENAI_STD


def test_the_shipped_timm_students_are_what_their_timm_names_give() -> None:
    shipped, named = read_architecture("EfficientNet-B0"), read_architecture("timm:efficientnet_b0+T")
    assert {k: shipped[k] for k in ("embed_dim", "vision_cfg", "text_cfg")} == {
        k: named[k] for k in ("embed_dim", "vision_cfg", "text_cfg")
    }


@pytest.mark.parametrize("trunk", ["test_vit", "test_convnext", "test_byobnet", "mobilenetv4_conv_small"])
def test_a_timm_student_embeds(trunk: str) -> None:
    architecture = read_architecture(f"timm:{trunk}")
    size = architecture["vision_cfg"]["image_size"]
    with torch.no_grad():
        image = build_model(architecture).eval().encode_image(torch.rand(2, 3, size, size))
    assert image.shape == (2, 512) and torch.isfinite(image).all() and not torch.equal(image[0], image[1])


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("ViT-B/32", "no architecture", "did you mean ViT-B-32?"),
        ("kdx-minni", "no architecture", "did you mean kdx-mini?"),
        ("resnet50+B", "no architecture", "did you mean timm:resnet50+B?"),
        ("timm:resnet5+B", "timm has no model", "did you mean timm:resnet50+B?"),
        ("timm:resnet50+Q", "no text tower 'Q'", "choose T, B, L"),
        ("timm:resnet50.a1_in1k", "published weights", "write timm:resnet50+T"),
        ("roberta-ViT-B-32", "text tower roberta-base", "for example ViT-B-32"),
        ("ViT-B-16-SigLIP", "tokenizer timm/ViT-B-16-SigLIP", "for example ViT-B-32"),
        ("ViT-L-14-CLIPA", "tokenizer bert-base-uncased", "for example ViT-B-32"),
        ("coca_ViT-B-32", "CoCa", "for example ViT-B-32"),
        ("MobileCLIP-S1", "no_causal_mask = True", "for example ViT-B-32"),
    ],
)
def test_what_cannot_be_a_student_is_refused_with_a_remedy(name: str, what: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_architecture(name)
    assert what in caught.value.what
    assert caught.value.remedy is not None and remedy in caught.value.remedy


def test_a_trunk_that_fails_its_forward_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm 1.0.31 has no such trunk in a sample of each of its 99 families, so one is broken here."""
    from kdx.models import architectures

    monkeypatch.setattr(architectures, "_fit_projection", lambda model: None)
    with pytest.raises(UsageError, match=r"timm:mobilenetv3_large_100\+T cannot be an image tower"):
        read_architecture("timm:mobilenetv3_large_100")


def _meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(name)
