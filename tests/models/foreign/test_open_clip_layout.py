"""Facts of kdx/models/foreign/open_clip_layout.py: there and back, with open_clip's own loader between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from open_clip import factory
from PIL import Image
from torch import Tensor

from kdx.core.errors import DataError, UsageError
from kdx.models.architecture import PreprocessConfig, TextConfig
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.foreign.fitting import fit
from kdx.models.foreign.importing import import_checkpoint
from kdx.models.foreign.open_clip_layout import save_open_clip
from kdx.models.text_tokenizer import tokenizer_of
from kdx.runtime.torch import TorchEncoder

from .small_tokenizers import bert, t5

Embed = Callable[[Any], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))


def _with_small_text(name: str, quick_gelu: bool = False) -> Architecture:
    """An architecture of kdx with its whole image tower and a text tower that costs little."""
    text = TextConfig(context_length=16, vocab_size=49408, width=64, heads=1, layers=2)
    return read_architecture(name).changed(name=f"small-{name}", text_cfg=text, quick_gelu=quick_gelu)


def _checkpoint(path: Path, architecture: Architecture) -> Path:
    model = build_model(architecture, seed=3)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    save_checkpoint(path, model, architecture, clip_tokenizer())
    return path


@pytest.mark.parametrize(
    "architecture",
    [
        _with_small_text("ViT-T-16", quick_gelu=True),
        _with_small_text("MobileNetV3-S"),
        _with_small_text("EfficientNet-B0"),
        _with_small_text("MobileViT-XXS"),
        _with_small_text("timm:coat_lite_tiny"),  # its blocks share modules
        _with_small_text("ResNet-18").changed(init_logit_bias=-10.0),
    ],
    ids=lambda described: described.name,
)
def test_outputs_are_equal_in_open_clip_and_after_coming_back(
    architecture: Architecture, embed: Embed, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(_checkpoint(tmp_path / "there", architecture))
    weights = save_open_clip(checkpoint, tmp_path / "theirs")
    expected = embed(checkpoint.model)

    open_clip.add_model_config(tmp_path / "theirs")
    by_name = open_clip.create_model(architecture.name, pretrained=str(weights)).eval()
    by_folder = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}").eval()
    import_checkpoint(str(tmp_path / "theirs"), tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    for model in (by_name, by_folder, back.model):
        for ours, theirs in zip(embed(model), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
    assert back.model.state_dict().keys() == checkpoint.model.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(back.model.state_dict().values(), checkpoint.model.state_dict().values(), strict=True)
    )
    assert back.spec.logit_scale == checkpoint.spec.logit_scale == pytest.approx(20.0855, rel=1e-5)


def test_the_demos_student_comes_back_under_its_name(mini_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    weights = save_open_clip(checkpoint, tmp_path / "theirs")
    for number, source in enumerate((tmp_path / "theirs", weights)):
        import_checkpoint(str(source), tmp_path / str(number))
        back = open_checkpoint(tmp_path / str(number))
        assert back.spec.name == "kdx-mini"
        assert back.spec.preprocess_digest == checkpoint.spec.preprocess_digest


def test_the_widths_of_a_student_come_back(tmp_path: Path) -> None:
    architecture = read_architecture("kdx-mini")
    model = build_model(architecture)
    save_checkpoint(tmp_path / "there", model, architecture, clip_tokenizer(), matryoshka_dims=(16, 64))
    save_open_clip(open_checkpoint(tmp_path / "there"), tmp_path / "theirs")
    open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}")
    import_checkpoint(str(tmp_path / "theirs"), tmp_path / "back")
    assert open_checkpoint(tmp_path / "back").spec.widths == (16, 64)
    config = tmp_path / "theirs/open_clip_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"matryoshka_dims": [64, 16]}))
    with pytest.raises(DataError, match="64, 16"):
        import_checkpoint(str(tmp_path / "theirs"), tmp_path / "bad")


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_in_shards_is_read_through_their_index(
    name: str, mini_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    weights = save_open_clip(checkpoint, tmp_path / "theirs")
    state = safetensors.torch.load_file(weights)
    folder = tmp_path / "shards"
    folder.mkdir()
    shutil.copy(weights.with_name("open_clip_config.json"), folder)
    index = {key: f"shard-{number % 2}" for number, key in enumerate(state)}
    for shard in set(index.values()):
        part = {key: state[key] for key in state if index[key] == shard}
        if name.endswith(".bin"):
            torch.save(part, folder / shard)
        else:
            safetensors.torch.save_file(part, folder / shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": index}))
    for number, source in enumerate((folder, folder / f"{name}.index.json")):
        import_checkpoint(str(source), tmp_path / str(number))
        back = open_checkpoint(tmp_path / str(number))
        assert back.spec.name == "kdx-mini"
        assert all(torch.equal(value, state[key]) for key, value in back.model.state_dict().items())


def test_preprocessing_goes_with_the_folder(tmp_path: Path) -> None:
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    architecture = _with_small_text("ResNet-18").changed(
        preprocess_cfg=PreprocessConfig.model_validate(preprocess)
    )
    checkpoint = open_checkpoint(_checkpoint(tmp_path / "there", architecture))
    save_open_clip(checkpoint, tmp_path / "theirs")
    loaded: Any = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}")
    config = loaded.visual.preprocess_cfg
    assert list(config["mean"]) == preprocess["mean"] and config["resize_mode"] == "squash"
    import_checkpoint(str(tmp_path / "theirs"), tmp_path / "back")
    assert open_checkpoint(tmp_path / "back").spec.preprocess_digest == checkpoint.spec.preprocess_digest


def test_a_folder_that_lies_there_is_kept(mini_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    save_open_clip(checkpoint, tmp_path / "theirs")
    with pytest.raises(UsageError) as caught:
        save_open_clip(checkpoint, tmp_path / "theirs")
    assert caught.value.where == str(tmp_path / "theirs")
    save_open_clip(checkpoint, tmp_path / "theirs", overwrite=True)


def test_a_file_that_keeps_one_name_of_shared_weights_is_whole(tmp_path: Path) -> None:
    """As safetensors' save_model writes it."""
    architecture = _with_small_text("timm:coat_lite_tiny")
    model = build_model(architecture, seed=3)
    safetensors.torch.save_model(model, str(tmp_path / "x.safetensors"))
    assert len(safetensors.torch.load_file(tmp_path / "x.safetensors")) < len(model.state_dict())
    weights = fit(safetensors.torch.load_file(tmp_path / "x.safetensors"), architecture, "x").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["SigLIP", "CLIPA", "OpenVision"])
def test_open_clip_opens_the_whole_model_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    text: dict[str, Any] = {"context_length": 16, "width": 64, "heads": 1, "layers": 2, "vocab_size": 48}
    text |= {
        "hf_tokenizer_name": "someone/elses",
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    kwargs: dict[str, Any] = {"clean": "canonicalize"}
    vision: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    if kind != "SigLIP":
        kwargs, text["vocab_size"] = {"clean": "whitespace", "strip_sep_token": True}, 111
    whole: dict[str, Any] = {"custom_text": True, "init_logit_bias": -10}
    if kind == "OpenVision":  # as its open_clip_config.json has it
        vision |= {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
        vision["norm_kwargs"] = text["norm_kwargs"] = {"eps": 1e-6}
        text |= {"act_kwargs": {"approximate": "tanh"}, "proj_bias": False}
        whole = {}
    (t5 if kind == "SigLIP" else bert)(tmp_path / "tokenizer")
    architecture = Architecture.model_validate(
        {
            **{"name": "small", "embed_dim": 64, **whole},
            "vision_cfg": vision,
            "text_cfg": {**text, "tokenizer_kwargs": kwargs},
            "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
        }
    )
    tokenizer = tokenizer_of(architecture, tmp_path / "tokenizer")
    save_checkpoint(tmp_path / "there", build_model(architecture, 3), architecture, tokenizer)
    ours = TorchEncoder(open_checkpoint(tmp_path / "there"))
    save_open_clip(open_checkpoint(tmp_path / "there"), tmp_path / "theirs")

    name = f"local-dir:{tmp_path / 'theirs'}"
    model, _, prepare = cast(Any, open_clip.create_model_and_transforms(name))
    split: Any = open_clip.get_tokenizer(name)
    texts = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))
    assert split(texts).tolist() == ours.spec.pad([tokenizer.encode(each, 16) for each in texts]).tolist()
    with torch.no_grad():
        texts_there = model.eval().encode_text(split(texts), normalize=True)
        images_there = model.encode_image(prepare(image)[None], normalize=True)
    np.testing.assert_allclose(ours.embed_texts(texts), texts_there, atol=1e-5)
    np.testing.assert_allclose(ours.embed_images([image]), images_there, atol=1e-5)

    import_checkpoint(str(tmp_path / "theirs"), tmp_path / "back")
    back = open_checkpoint(tmp_path / "back").spec
    assert back.tokenizer_digest == ours.spec.tokenizer_digest and back.pad_id == ours.spec.pad_id


def test_what_open_clip_has_no_setting_for_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    architecture = _with_small_text("timm:vit_tiny_patch16_224")
    architecture = architecture.changed(vision_cfg=architecture.vision_cfg.changed(timm_act="gelu_tanh"))
    save_open_clip(open_checkpoint(_checkpoint(tmp_path / "there", architecture)), tmp_path / "theirs")
    assert "no setting for the image tower's gelu_tanh" in caplog.text
    open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}")
