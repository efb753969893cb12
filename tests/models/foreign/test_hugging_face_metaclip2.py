"""MetaCLIP 2 as transformers saves it: a CLIPModel that reads its texts with XLM-V's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign import hugging_face_clip
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder

from .small_tokenizers import xlm_roberta

transformers = pytest.importorskip("transformers")

TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]
TOWER = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 16} | TOWER
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "image_size": 32,
    "patch_size": 8,
} | TOWER


def _published(folder: Path, **text: Any) -> Any:
    """A MetaClip2Model with its tokenizer and processor."""
    xlm_roberta(folder)
    own = transformers.AutoTokenizer.from_pretrained(folder)
    ids = {"vocab_size": len(own), "bos_token_id": own.bos_token_id, "eos_token_id": own.eos_token_id}
    config = transformers.MetaClip2Config(
        text_config={**TEXT, **ids, **text}, vision_config=VISION, projection_dim=48
    )
    torch.manual_seed(5)
    model = transformers.MetaClip2Model(config).eval()
    for parameter in model.parameters():  # so that no two norms or biases are equal
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    side = {"shortest_edge": 32}
    transformers.CLIPImageProcessor(size=side, crop_size=32).save_pretrained(folder)
    return model


def test_a_metaclip_2_folder_gives_the_features_of_transformers(tmp_path: Path) -> None:
    theirs = _published(tmp_path / "worldwide")
    report = import_checkpoint(str(tmp_path / "worldwide"), tmp_path / "out")
    assert report.architecture == "worldwide" and report.assumptions == ()
    ours = TorchEncoder(open_checkpoint(tmp_path / "out"))
    assert (ours.spec.text_pooling, ours.spec.text_padding, ours.spec.pad_id) == ("eos", "longest", 1)
    split = transformers.AutoTokenizer.from_pretrained(tmp_path / "worldwide")
    prepare = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "worldwide")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with torch.no_grad():
        inputs = split(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        inputs["pixel_values"] = prepare(image, return_tensors="pt")["pixel_values"]
        expected = theirs(**inputs)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), expected.text_embeds, atol=1e-5)
    np.testing.assert_allclose(ours.embed_images([image]), expected.image_embeds, atol=1e-5)


def test_the_published_sizes_have_open_clips_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the config.json of facebook/metaclip-2-worldwide-huge-quickgelu, whose weights are left out here."""
    sizes = {"projection_dim": 1024}
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    }
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16}
    ids = {"vocab_size": 901629, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    transformers.MetaClip2Config(
        text_config=text | ids,
        vision_config=vision | {"num_hidden_layers": 32, "image_size": 224, "patch_size": 14},
        **sizes,
    ).save_pretrained(tmp_path)
    read = hugging_face_clip.read_metaclip2(tmp_path)
    assert read.name == "ViT-H-14-worldwide-quickgelu"
    assert read.text_cfg.tokenizer_name == "facebook/xlm-v-base"
