"""Facts of kdx/models/checkpoint.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import sealed_folder
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.checkpoint import (
    open_checkpoint,
    read_checkpoint_architecture,
    read_checkpoint_spec,
    save_checkpoint,
)
from kdx.models.clip import ClipModel
from kdx.models.clip_vocabulary import clip_tokenizer


def _save(path: Path, seed: int = 0, *, overwrite: bool = False) -> None:
    architecture = read_architecture("kdx-mini")
    save_checkpoint(
        path, build_model(architecture, seed), architecture, clip_tokenizer(), overwrite=overwrite
    )


def test_a_saved_model_opens_with_the_same_weights_and_a_matching_spec(tmp_path: Path) -> None:
    _save(tmp_path / "model")
    opened = open_checkpoint(tmp_path / "model")
    expected = build_model(read_architecture("kdx-mini"), 0).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in opened.model.state_dict().items())
    assert (opened.spec.embed_dim, opened.spec.image_size, opened.spec.context_length) == (64, 32, 32)
    assert opened.spec.logit_scale == pytest.approx(1 / 0.07)
    assert opened.spec.tokenizer_digest == opened.tokenizer.digest
    assert not opened.model.training


def test_the_digest_tells_weights_apart(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        _save(tmp_path / name, seed)
    digests = {name: open_checkpoint(tmp_path / name).spec.model_digest for name in ("one", "same", "other")}
    assert digests["one"] == digests["same"] != digests["other"]


def test_what_a_checkpoint_says_of_itself_is_read_without_its_weights(tmp_path: Path) -> None:
    _save(tmp_path / "model")
    opened = open_checkpoint(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    assert read_checkpoint_spec(tmp_path / "model") == opened.spec
    assert read_checkpoint_architecture(tmp_path / "model") == opened.architecture
    with pytest.raises(DataError, match="missing"):
        open_checkpoint(tmp_path / "model")
    (tmp_path / "model/config.json").write_text("{}")
    with pytest.raises(DataError, match="changed"):
        read_checkpoint_spec(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "clip_vocabulary.json"])
def test_one_changed_byte_is_refused_by_name(tmp_path: Path, name: str) -> None:
    _save(tmp_path / "model")
    file = tmp_path / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_checkpoint(tmp_path / "model")
    assert str(caught.value.where).endswith(name)


def test_an_existing_checkpoint_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    _save(tmp_path / "model", 0)
    with pytest.raises(UsageError) as caught:
        _save(tmp_path / "model", 1)
    assert caught.value.where == str(tmp_path / "model")
    before = open_checkpoint(tmp_path / "model").spec.model_digest
    _save(tmp_path / "model", 1, overwrite=True)
    assert open_checkpoint(tmp_path / "model").spec.model_digest != before


@pytest.mark.parametrize(
    ("tower", "setting", "what"),
    [
        ("text_cfg", {"hf_model_name": "someone/model"}, "the Hugging Face model someone/model"),
        ("vision_cfg", {"timm_model_name": "hf-hub:someone/model"}, "lies on a hub"),
        ("vision_cfg", {"image_size": "big"}, "describes no model"),
    ],
)
def test_a_checkpoint_of_somebody_else_fetches_nothing(
    tmp_path: Path, tower: str, setting: dict[str, str], what: str
) -> None:
    architecture = read_architecture("kdx-mini").to_dict()
    changed = {**architecture, tower: {**architecture[tower], **setting}}
    _save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    with sealed_folder(tmp_path / "theirs", "checkpoint") as folder:
        for name in ("model.safetensors", "clip_vocabulary.json"):
            shutil.copy(tmp_path / "model" / name, folder)
        (folder / "config.json").write_text(json.dumps({**config, "architecture": changed}))
    for read in (open_checkpoint, read_checkpoint_architecture):
        with pytest.raises(DataError, match=what):
            read(tmp_path / "theirs")


def _tied() -> tuple[ClipModel, Architecture]:
    """A model whose two text blocks are one module, as timm's coat shares modules between blocks."""
    architecture = read_architecture("kdx-mini")
    model = build_model(architecture, 0)
    blocks = model.text_tower.transformer.resblocks
    assert isinstance(blocks, torch.nn.ModuleList)
    blocks[1] = blocks[0]
    return model, architecture


def test_weights_that_modules_share_are_kept_under_each_name(tmp_path: Path) -> None:
    model, architecture = _tied()
    with torch.no_grad():
        model.text_tower.token_embedding.weight[0, 0] = 7.0
    save_checkpoint(tmp_path / "model", model, architecture, clip_tokenizer())
    opened = open_checkpoint(tmp_path / "model").model.state_dict()
    assert opened.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, opened[name]) for name, tensor in model.state_dict().items())


def test_an_older_folder_with_the_vocabulary_under_its_old_name_opens(tmp_path: Path) -> None:
    _save(tmp_path / "model")
    with sealed_folder(tmp_path / "old", "checkpoint") as folder:
        for name in ("model.safetensors", "config.json"):
            shutil.copy(tmp_path / "model" / name, folder)
        shutil.copy(tmp_path / "model" / "clip_vocabulary.json", folder / "tokenizer.json")
    assert open_checkpoint(tmp_path / "old").tokenizer.digest == clip_tokenizer().digest


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_foreign_weights_are_answered_with_how_to_import_them(tmp_path: Path, kind: str) -> None:
    theirs = tmp_path / "teacher.pt"
    if kind == "file":
        torch.save({}, theirs)
    else:
        theirs.mkdir()
    for read in (open_checkpoint, read_checkpoint_architecture):
        with pytest.raises(DataError) as caught:
            read(theirs)
        assert f"kdx import {theirs} --out DIR" in str(caught.value.remedy)
