"""Facts of kdx/models/open_clip_architectures.py."""

import pytest
import torch

from kdx.models.architecture import OPENAI_MEAN
from kdx.models.architectures import (
    build_model,
    count_parameters,
    read_architecture,
    shipped_names,
)
from kdx.models.open_clip_architectures import from_open_clip


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
    assert count_parameters(read_architecture(name)).total_params / 1e6 == pytest.approx(total, abs=0.01)


def test_quickgelu_is_carried() -> None:
    plain, quick = (repr(_meta(name).visual) for name in ("ViT-B-32", "ViT-B-32-quickgelu"))
    assert "QuickGELU" in quick and "QuickGELU" not in plain


def test_shipped_names_come_first_and_only_they_are_listed() -> None:
    assert read_architecture("ViT-B-16").about
    assert "ViT-B-32" not in shipped_names()


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
    found = read_architecture(name).preprocess
    assert (found.mean, found.interpolation, found.resize_mode) == (mean, interpolation, resize_mode)


def test_moving_the_text_tower_to_the_top_changes_no_embedding() -> None:
    """Checkpoints that were made before kdx knew `custom_text` hold such models."""
    from open_clip.model import CustomTextCLIP

    architecture = read_architecture("kdx-mini")
    described = architecture.to_dict()
    theirs = CustomTextCLIP(*(described[key] for key in ("embed_dim", "vision_cfg", "text_cfg"))).eval()
    ours = build_model(architecture).eval()
    ours.load_state_dict({name.removeprefix("text."): v for name, v in theirs.state_dict().items()})
    tokens = torch.tensor([[49406, 320, 1125, 49407] + [0] * 28])
    with torch.no_grad():
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
        pixels = torch.rand(2, 3, 32, 32)
        assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))


def test_a_square_image_size_may_be_a_pair() -> None:
    configuration = {"embed_dim": 8, "vision_cfg": {"image_size": [32, 32]}, "text_cfg": {}}
    assert from_open_clip("x", configuration, "x").vision_cfg.image_size == 32


def _meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(read_architecture(name))
