"""Every model that open_clip knows by name gives, with the same weights, open_clip's own embeddings."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from kdx.models.architectures import build_model, count_parameters
from kdx.models.clip_configuration import unsupported_reason
from kdx.models.hugging_face_text import known_configs
from kdx.models.open_clip_architectures import from_open_clip, open_clip_names

from .open_clip_cuts import cut, cut_trunks, padded_tokens

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
    "roberta-ViT-B-32",
    "xlm-roberta-base-ViT-B-32",
    "mt5-base-ViT-B-32",
    "nllb-clip-base",
    "coca_roberta-ViT-B-32",
]


@pytest.fixture
def shallow_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_trunks(monkeypatch)


def _open_clips_own(config: dict[str, Any], folder: Path) -> nn.Module:
    """As open_clip's factory chooses the class; a Hugging Face tower's configuration is read from a file."""
    config = copy.deepcopy(config)
    text = config["text_cfg"]
    hugging_face = text.get("hf_model_name")
    if hugging_face:
        described = text.pop("hf_config", None) or known_configs()[hugging_face]
        (folder / "config.json").write_text(json.dumps(described))
        text |= {"hf_model_name": str(folder / "config.json"), "hf_model_pretrained": False}
    if not config.pop("custom_text", False) and not hugging_face:
        return CLIP(**config)
    return CoCa(**config) if "multimodal_cfg" in config else CustomTextCLIP(**config)


def compare(name: str, config: dict[str, Any], folder: Path) -> None:
    """Asserts that both towers put out what open_clip's do, finite numbers of the declared shape.

    Where the architecture says that padding may be cut, a cut text gives the same vector.
    """
    architecture = from_open_clip(name, config, name)
    ours, theirs = build_model(architecture, seed=1).eval(), _open_clips_own(config, folder).eval()
    missing, surplus = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not surplus and all(key.startswith("text_decoder.") for key in missing)
    size = architecture.vision_cfg.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = padded_tokens(config, ours.context_length)
    with torch.no_grad():
        for encode, given in (("encode_image", pixels), ("encode_text", tokens)):
            mine = getattr(ours, encode)(given)
            expected = getattr(theirs, encode)(given, normalize=False)
            assert mine.shape == (2, architecture.embed_dim) and mine.isfinite().all()
            assert (mine - expected).abs().max() <= LIMIT * max(1.0, float(expected.abs().max()))
            assert not torch.equal(mine[0], mine[1])
        if architecture.text_padding == "longest":
            assert torch.allclose(ours.encode_text(tokens[1:, :6]), mine[1:], atol=LIMIT, rtol=LIMIT)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_has_open_clips_embeddings(
    name: str, shallow_trunks: None, tmp_path: Path
) -> None:
    compare(name, cut(open_clip.get_model_config(name) or {}), tmp_path)


@pytest.mark.slow  # nine minutes on two busy cores
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_model_has_open_clips_embeddings(name: str, shallow_trunks: None, tmp_path: Path) -> None:
    compare(name, cut(open_clip.get_model_config(name) or {}), tmp_path)


@pytest.mark.slow  # up to a minute each
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("ViT-H")])
def test_a_whole_model_of_each_family_has_open_clips_embeddings(name: str, tmp_path: Path) -> None:
    compare(name, open_clip.get_model_config(name) or {}, tmp_path)


def test_all_models_of_open_clip_are_built() -> None:
    assert open_clip_names() == open_clip.list_models() and len(open_clip_names()) == 144


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # open_clip's own table, docs/model_profile.csv: of the text tower
        ("roberta-ViT-B-32", 124.87),
        ("xlm-roberta-base-ViT-B-32", 278.27),
        ("xlm-roberta-large-ViT-H-14", 560.94),
        ("mt5-base-ViT-B-32", 277.86),
        ("mt5-xl-ViT-H-14", 1674.68),
        ("nllb-clip-base", 414.04),
        ("nllb-clip-large", 767.14),
    ],
)
def test_a_hugging_face_tower_has_the_size_of_the_published_one(name: str, millions: float) -> None:
    described = open_clip.get_model_config(name) or {}
    described["vision_cfg"]["layers"] = 1
    counts = count_parameters(from_open_clip(name, described, name))
    assert counts.text_params / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_hugging_face_tower_comes_from_the_users_folder(tmp_path: Path) -> None:
    described = cut(open_clip.get_model_config("roberta-ViT-B-32") or {})
    config = described["text_cfg"].pop("hf_config")
    (tmp_path / "mine").mkdir()
    described["text_cfg"]["hf_model_name"] = "somebody/mine"
    refused = unsupported_reason(from_open_clip("x", described, "x"))
    assert refused and "somebody/mine" in refused and "config.json" in refused
    described["text_cfg"]["hf_model_name"] = str(tmp_path / "mine")
    (tmp_path / "mine/config.json").write_text(json.dumps(config))
    architecture = from_open_clip("x", described, "x")
    assert architecture.text_cfg.hf_model_name == "mine" and unsupported_reason(architecture) is None
    (tmp_path / "mine/config.json").unlink()
    assert build_model(architecture).vocab_size == 64
    (tmp_path / "mine/config.json").write_text(json.dumps({**config, "model_type": "modernbert"}))
    assert "modernbert" in (unsupported_reason(from_open_clip("x", described, "x")) or "")


def test_a_configuration_by_a_known_name_counts_only_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = open_clip.get_model_config("roberta-ViT-B-32") or {}
    config, place = known_configs()["roberta-base"], tmp_path / "roberta-base" / "config.json"
    place.parent.mkdir()
    place.write_text(json.dumps(config))
    beside = tmp_path / "open_clip_config.json"
    assert from_open_clip("x", described, beside).text_cfg.hf_config is None  # it says what is known
    place.write_text(json.dumps({**config, "num_hidden_layers": 1}))
    read = from_open_clip("x", described, beside).text_cfg
    assert read.hf_model_name == "roberta-base" and (read.hf_config or {})["num_hidden_layers"] == 1
    monkeypatch.chdir(tmp_path)
    assert from_open_clip("x", described, "open_clip's x").text_cfg.hf_config is None
