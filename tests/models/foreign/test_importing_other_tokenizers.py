"""Models whose texts are not split by CLIP's rules: imported, trained and exported with their tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import read_manifest
from kdx.data.shards import Sample, open_split, write_shards
from kdx.distill import read_recipe, train
from kdx.models import architecture as architectures
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign import hub
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder

from .small_tokenizers import t5, xlm_roberta

SIGLIP = {
    "hf_tokenizer_name": "someone/siglip",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "vocab_size": 48,
    "context_length": 16,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
}
TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]


@pytest.fixture
def siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a small SigLIP whose architecture kdx knows by name; its tokenizer is in `tokenizer` beside it."""
    shipped = tmp_path / "architectures"
    shutil.copytree(str(architectures.FOLDER), shipped)
    described = json.loads((shipped / "kdx-mini.json").read_text())
    described |= {"text_cfg": described["text_cfg"] | SIGLIP, "custom_text": True, "init_logit_bias": -10}
    (shipped / "siglip-mini.json").write_text(json.dumps(described))
    monkeypatch.setattr(architectures, "FOLDER", shipped)
    t5(tmp_path / "tokenizer")
    model = build_model(read_architecture("siglip-mini"), 3)
    torch.save(model.state_dict(), tmp_path / "siglip.pt")
    return tmp_path / "siglip.pt"


def _imported(siglip: Path) -> Path:
    out = siglip.with_name("imported")
    import_checkpoint(str(siglip), out, architecture="siglip-mini", tokenizer=siglip.with_name("tokenizer"))
    return out


def test_an_imported_models_text_embeddings_are_those_of_open_clip_with_its_tokenizer(siglip: Path) -> None:
    from open_clip.model import CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer

    checkpoint = open_checkpoint(_imported(siglip))
    spec = checkpoint.spec
    assert (spec.tokenizer_kind, spec.text_padding, spec.pad_id) == ("hf", "full", 1)
    described: dict[str, Any] = checkpoint.architecture.to_dict()
    parts = {key: described[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "init_logit_bias")}
    theirs = CustomTextCLIP(**parts).eval()
    theirs.load_state_dict(torch.load(siglip))
    split = HFTokenizer(str(siglip.with_name("tokenizer")), context_length=16, clean="canonicalize")
    with torch.no_grad():
        expected = theirs.encode_text(split(TEXTS), normalize=True).numpy()
    np.testing.assert_allclose(TorchEncoder(checkpoint).embed_texts(TEXTS), expected, atol=1e-5)


def test_a_student_is_trained_with_the_tokenizer_that_its_architecture_names(
    siglip: Path,
    make_samples: Callable[..., list[Sample]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hub, "fetch_tokenizer", lambda name: siglip.with_name("tokenizer"))
    data = siglip.with_name("data")
    longer = [("a large dog and two small cats in the photo",)] * 12
    write_shards(data, "train", make_samples(12, captions=longer))
    write_shards(data, "val", make_samples(8))
    settings = ["student=siglip-mini", "steps=2", "batch_size=6", "optimizer.warmup_steps=1"]
    recipe = read_recipe("demo-baseline", [*settings, "validate_every=1"])
    run = siglip.with_name("run")
    train(recipe, open_split(data, "train"), run, val=open_split(data, "val"))
    assert "12 of 12 captions that were read were longer than 16 tokens, and were cut" in caplog.text
    assert read_manifest(run).fields["captions_cut"] == 12
    student, imported = open_checkpoint(run), open_checkpoint(_imported(siglip))
    assert student.tokenizer.digest == imported.tokenizer.digest
    assert TorchEncoder(student).embed_texts(TEXTS).shape == (4, 64)


def test_the_tokenizer_of_another_model_is_refused_and_nothing_is_left(siglip: Path, tmp_path: Path) -> None:
    xlm_roberta(tmp_path / "other")
    with pytest.raises(DataError, match="tokenizer is that of another model"):
        import_checkpoint(
            str(siglip), tmp_path / "out", architecture="siglip-mini", tokenizer=tmp_path / "other"
        )
    assert not (tmp_path / "out").exists()


def test_without_one_the_hub_is_asked(siglip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> Path:
        raise SetupError(f"no {name}")

    monkeypatch.setattr(hub, "fetch_tokenizer", unreachable)
    with pytest.raises(SetupError, match="no someone/siglip"):
        import_checkpoint(str(siglip), siglip.with_name("out"), architecture="siglip-mini")


def test_a_model_with_clips_tokenizer_takes_no_other(mini_checkpoint: Path, tmp_path: Path) -> None:
    weights = str(mini_checkpoint / "model.safetensors")
    with pytest.raises(UsageError, match="CLIP's own tokenizer"):
        import_checkpoint(weights, tmp_path / "out", architecture="kdx-mini", tokenizer=tmp_path)
