"""A model of each kind, cut to one layer: written for open_clip, opened there without a network, and imported again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import open_clip
import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from kdx.models.foreign.importing import import_checkpoint
from kdx.models.foreign.open_clip_layout import save_open_clip
from kdx.models.open_clip_architectures import from_open_clip, with_preprocess
from kdx.models.text_tokenizer import tokenizer_of

from ..open_clip_cuts import cut, cut_trunks
from .small_tokenizers import bert, gemma, nllb, roberta, sentencepiece, xlm_roberta

HUGGING_FACE: dict[str, Callable[[Path], None]] = {  # text towers
    "roberta-ViT-B-32": roberta,
    "xlm-roberta-base-ViT-B-32": xlm_roberta,
    "mt5-base-ViT-B-32": sentencepiece,
    "nllb-clip-base": nllb,
    "coca_roberta-ViT-B-32": roberta,
}
OTHERS: dict[str, Callable[[Path], None] | None] = {
    "RN50": None,
    "convnext_base": None,
    "EVA02-B-16": None,
    "MobileCLIP-S1": None,
    "MobileCLIP2-S0": None,
    "PE-Core-T-16-384": None,
    "ViTamin-S": None,
    "ViT-B-16-SigLIP2": gemma,
    "ViT-L-14-CLIPA": bert,
    "ViT-H-14-worldwide-quickgelu": xlm_roberta,
    "coca_ViT-B-32": None,
    "coca_base": None,
}
TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 40]


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_trunks(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _checkpoint(name: str, tokenizer: Callable[[Path], None] | None, folder: Path) -> Checkpoint:
    """A model of this kind with one layer and, where it does not read as CLIP does, a small tokenizer of its kind."""
    described = cut(open_clip.get_model_config(name) or {})
    vision, text, own = described["vision_cfg"], described["text_cfg"], None
    if "timm_model_name" not in vision:
        vision |= {"width": 64 if vision["layers"] == 1 else 16, "head_width": 64}
    if text.get("proj_type") != "none":
        text |= {"width": 64, "heads": 1}
    if tokenizer is None:
        text["vocab_size"] = 49408
    else:
        own = folder / "tokenizer"
        tokenizer(own)
        ids = len(json.loads((own / "tokenizer.json").read_text())["model"]["vocab"]) + 8
        text["vocab_size"] = ids
        if "hf_config" in text:
            text["hf_config"]["vocab_size"] = ids
    architecture = from_open_clip(name, described, name)
    architecture = with_preprocess(architecture, dict(read_architecture(name).preprocess_cfg))
    model = build_model(architecture, 3)
    save_checkpoint(folder / "there", model, architecture, tokenizer_of(architecture, own))
    return open_checkpoint(folder / "there")


def _embeddings(model: Any, tokens: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    pixels = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)


def _there_and_back(checkpoint: Checkpoint, name: str, tmp_path: Path) -> None:
    """Asserts that open_clip opens `name`, which tmp_path/theirs is called by, and kdx what open_clip opened."""
    theirs = cast(Any, open_clip.create_model(name)).eval()
    split = cast(Any, open_clip.get_tokenizer(name))
    length = checkpoint.spec.context_length
    tokens = checkpoint.spec.pad([checkpoint.tokenizer.encode(text, length) for text in TEXTS])
    assert split(TEXTS, length).tolist() == [
        [*row, *[checkpoint.spec.pad_id] * (length - len(row))] for row in tokens.tolist()
    ]

    import_checkpoint(str(tmp_path / "theirs"), tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    size = checkpoint.spec.image_size
    expected = _embeddings(checkpoint.model, torch.from_numpy(tokens), size)
    for model in (theirs, back.model):
        for ours, wanted in zip(_embeddings(model, torch.from_numpy(tokens), size), expected, strict=True):
            assert torch.allclose(ours, wanted, rtol=0, atol=1e-6)
    kept, returned = checkpoint.model.state_dict(), back.model.state_dict()
    assert kept.keys() == returned.keys() and all(torch.equal(kept[key], returned[key]) for key in kept)
    for field in ("tokenizer_digest", "preprocess_digest", "text_padding", "text_pooling", "pad_id"):
        assert getattr(back.spec, field) == getattr(checkpoint.spec, field)
    prepared = checkpoint.architecture.preprocess_cfg.model_dump(mode="json")
    assert prepared.items() <= theirs.visual.preprocess_cfg.items()


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_of_each_kind_is_opened_by_open_clip_and_comes_back(name: str, tmp_path: Path) -> None:
    checkpoint = _checkpoint(name, OTHERS[name], tmp_path)
    save_open_clip(checkpoint, tmp_path / "theirs")
    _there_and_back(checkpoint, f"local-dir:{tmp_path / 'theirs'}", tmp_path)


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_hugging_face_tower_is_found_by_open_clip_that_runs_in_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = _checkpoint(name, HUGGING_FACE[name], tmp_path)
    save_open_clip(checkpoint, tmp_path / "theirs")
    assert f"without a network run it in {tmp_path / 'theirs'}" in caplog.text
    monkeypatch.chdir(tmp_path / "theirs")
    _there_and_back(checkpoint, "local-dir:.", tmp_path)
