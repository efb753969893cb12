"""Every model that open_clip knows by name gives, with the same weights, open_clip's own embeddings."""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from kdx.models.architectures import build_model
from kdx.models.clip import ClipModel
from kdx.models.open_clip_architectures import from_open_clip, open_clip_names

LIMIT = 1e-5
FAMILIES = [
    "ViT-B-32",
    "RN50",
    "convnext_base",
    "EVA02-B-16",
    "MobileCLIP-S1",
    "MobileCLIP2-S0",
    "MobileCLIP-B",
    "PE-Core-T-16-384",
    "ViTamin-S",
    "ViT-B-16-SigLIP",
    "ViT-B-32-SigLIP2-256",
    "ViT-L-14-CLIPA",
    "ViT-H-14-worldwide",
    "coca_ViT-B-32",
    "coca_base",
]
TRUNK_CUTS = (
    ({"depth": 1}, ("vit", "eva")),
    ({"layers": (1, 1, 1, 1)}, ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2")),
    ({"layers": (1, 1, 1, 1, 1)}, ("fastvit",)),
    ({"depths": (1, 1, 1, 1)}, ("convnext", "swin")),
)


def cut(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with one layer (or one in each stage) and a small vocabulary."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    staged = isinstance(vision.get("layers"), list)
    vision["layers"] = [1, 1, 1, 1] if staged else 1
    text |= {"layers": 1, "vocab_size": max(64, text.get("eos_id", 2) + 1)}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"]["layers"] = 1
    return config


@pytest.fixture
def shallow_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's trunks with one block in each stage, for kdx and open_clip alike."""
    whole = timm.create_model

    def shallow(name: str, **options: Any) -> nn.Module:
        depth = next((depth for depth, names in TRUNK_CUTS if name.startswith(names)), {})
        return whole(name, **{**options, **depth})

    monkeypatch.setattr(timm, "create_model", shallow)


def _open_clips_own(config: dict[str, Any]) -> nn.Module:
    """As open_clip's factory chooses the class."""
    config = copy.deepcopy(config)
    if not config.pop("custom_text", False):
        return CLIP(**config)
    return CoCa(**config) if "multimodal_cfg" in config else CustomTextCLIP(**config)


def _tokens(config: dict[str, Any], length: int) -> Tensor:
    """Two texts, the second padded: ended by what the tower pools at, or by the highest id."""
    text = config["text_cfg"]
    end = text.get("eos_id") if text.get("pool_type") == "eos" else None
    end = text.get("vocab_size", 49408) - 1 if end is None else end
    tokens = torch.randint(3, 60, (2, length), generator=torch.Generator().manual_seed(0))
    tokens[0, -1] = tokens[1, 5] = end
    tokens[1, 6:] = 0
    return tokens


def compare(name: str, config: dict[str, Any]) -> ClipModel:
    """Asserts that both towers put out what open_clip's do, finite numbers of the declared shape."""
    architecture = from_open_clip(name, config, name)
    ours, theirs = build_model(architecture, seed=1).eval(), _open_clips_own(config).eval()
    missing, surplus = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not surplus and all(key.startswith("text_decoder.") for key in missing)
    size = architecture.vision_cfg.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = _tokens(config, ours.context_length)
    with torch.no_grad():
        for encode, given in (("encode_image", pixels), ("encode_text", tokens)):
            mine = getattr(ours, encode)(given)
            expected = getattr(theirs, encode)(given, normalize=False)
            assert mine.shape == (2, architecture.embed_dim) and mine.isfinite().all()
            assert (mine - expected).abs().max() <= LIMIT * max(1.0, float(expected.abs().max()))
            assert not torch.equal(mine[0], mine[1])
    return ours


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_has_open_clips_embeddings(name: str, shallow_trunks: None) -> None:
    compare(name, cut(open_clip.get_model_config(name) or {}))


@pytest.mark.slow  # two minutes
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_model_has_open_clips_embeddings(name: str, shallow_trunks: None) -> None:
    compare(name, cut(open_clip.get_model_config(name) or {}))


@pytest.mark.slow  # up to a minute each
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("ViT-H")])
def test_a_whole_model_of_each_family_has_open_clips_embeddings(name: str) -> None:
    compare(name, open_clip.get_model_config(name) or {})


def test_a_cut_text_gives_the_same_vector_where_padding_may_be_cut(shallow_trunks: None) -> None:
    config = cut(open_clip.get_model_config("MobileCLIP-B") or {})
    model = build_model(from_open_clip("x", config, "x")).eval()
    tokens = _tokens(config, 77)[1:]
    with torch.no_grad():
        difference = model.encode_text(tokens[:, :6]) - model.encode_text(tokens)
    assert difference.abs().max() < LIMIT


def test_it_is_known_which_models_are_built() -> None:
    refused = set(open_clip.list_models()) - set(open_clip_names())
    assert len(open_clip.list_models()) == 144 and len(refused) == 10
