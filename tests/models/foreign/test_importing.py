"""Facts of kdx/models/foreign/importing.py and sources.py: foreign weights become checkpoints with the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from torch import Tensor

from kdx.core.digests import file_digest
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import read_manifest
from kdx.models.architectures import Architecture, read_architecture
from kdx.models.checkpoint import open_checkpoint
from kdx.models.clip import ClipModel
from kdx.models.foreign.importing import import_checkpoint

Embed = Callable[[Any], tuple[Tensor, Tensor]]


def _bare(state: dict[str, Tensor]) -> Any:
    return state


def _wrapped(state: dict[str, Tensor]) -> Any:
    return {"state_dict": state}


def _clip_kd(state: dict[str, Tensor]) -> Any:
    return {"epoch": 32, "state_dict": {f"module.{key}": value for key, value in state.items()}, "scaler": {}}


def _bare_prefixed(state: dict[str, Tensor]) -> Any:
    return {f"module.{key}": value for key, value in state.items()}


def _custom_text(state: dict[str, Tensor]) -> Any:
    top = ("visual.", "logit_scale")
    return {key if key.startswith(top) else f"text.{key}": value for key, value in state.items()}


def _masked(state: dict[str, Tensor]) -> Any:
    return {**state, "attn_mask": torch.zeros(16, 16), "logit_scale": state["logit_scale"].reshape(1)}


def _tinyclip(state: dict[str, Tensor]) -> Any:
    def module(key: str) -> str:
        named = {"v": "_image_encoder", "l": "_logit_scale"}
        return named.get(key[0] if key.startswith(("visual.", "logit_scale")) else "", "_text_encoder")

    return {"epoch": 1, "state_dict": {f"{module(key)}.module.{key}": value for key, value in state.items()}}


LAYOUTS = [_bare, _wrapped, _clip_kd, _bare_prefixed, _custom_text, _masked, _tinyclip]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_embeddings(
    layout: Callable[[dict[str, Tensor]], Any], small_model: ClipModel, embed: Embed, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.pt"
    torch.save(layout(small_model.state_dict()), path)
    report = import_checkpoint(str(path), tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    assert report.architecture == opened.spec.name == "vit-p8-2x128-32"
    assert read_manifest(tmp_path / "out").provenance["inputs"] == {"theirs.pt": file_digest(path)}
    for ours, theirs in zip(embed(opened.model), embed(small_model), strict=True):
        assert torch.equal(ours, theirs)


def test_openais_state_dict_is_half_precision_with_quick_gelu(
    small_vit: Architecture, embed: Embed, tmp_path: Path
) -> None:
    described = small_vit.to_dict()
    torch.manual_seed(2)
    model = CLIP(48, described["vision_cfg"], described["text_cfg"], quick_gelu=True).eval()
    state = {key: value.half() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    sizes = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(16), "vocab_size": 49408}
    torch.save({**state, **sizes}, tmp_path / "openai.pt")
    report = import_checkpoint(str(tmp_path / "openai.pt"), tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    assert opened.architecture.quick_gelu is True
    assert opened.spec.name == "vit-p8-2x128-32-quickgelu"
    assert any("OpenAI" in change for change in report.changes)
    assert not any("activation" in assumption for assumption in report.assumptions)
    for ours, theirs in zip(embed(opened.model), embed(model), strict=True):
        assert torch.equal(ours, theirs)


def test_quick_gelu_can_be_said(small_model: ClipModel, embed: Embed, tmp_path: Path) -> None:
    safetensors.torch.save_file(small_model.state_dict(), tmp_path / "x.safetensors")
    import_checkpoint(str(tmp_path / "x.safetensors"), tmp_path / "quick", quick_gelu=True)
    opened = open_checkpoint(tmp_path / "quick")
    assert opened.architecture.quick_gelu is True
    assert not torch.allclose(embed(opened.model)[0], embed(small_model)[0], atol=1e-6)


def test_a_named_architecture_decides(mini_checkpoint: Path, tmp_path: Path) -> None:
    weights = str(mini_checkpoint / "model.safetensors")
    report = import_checkpoint(weights, tmp_path / "named", architecture="kdx-mini")
    assert report.assumptions == ()
    assert open_checkpoint(tmp_path / "named").architecture == read_architecture("kdx-mini")
    with pytest.raises(DataError, match=r"kdx-mini-teacher.*\b18\b"):
        import_checkpoint(weights, tmp_path / "other", architecture="kdx-mini-teacher")
    with pytest.raises(UsageError, match="kdx-mino") as caught:
        import_checkpoint(weights, tmp_path / "other", architecture="kdx-mino")
    assert caught.value.remedy == "did you mean kdx-mini?"
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


def test_a_damaged_state_dict_is_refused_by_its_keys_and_nothing_is_left(
    small_model: ClipModel, tmp_path: Path
) -> None:
    state = dict(small_model.state_dict())
    del state["visual.ln_post.bias"]
    state["transformer.resblocks.0.ln_1.weight"] = torch.zeros(3)
    state["what"] = torch.zeros(3)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(tmp_path / "x.pt"), tmp_path / "out")
    for key in ("visual.ln_post.bias", "transformer.resblocks.0.ln_1.weight", "what"):
        assert key in caught.value.what
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_other_vocabularies_are_refused(small_model: ClipModel, tmp_path: Path) -> None:
    state = dict(small_model.state_dict())
    state["token_embedding.weight"] = torch.zeros(32000, 64)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(DataError, match="49408 ids, the text tower 32000"):
        import_checkpoint(str(tmp_path / "x.pt"), tmp_path / "out")


def test_sources_that_are_none_are_refused(mini_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(tmp_path / "nothing.pt"), tmp_path / "out")
    assert caught.value.where == str(tmp_path / "nothing.pt")
    with pytest.raises(UsageError) as caught:
        import_checkpoint("https://example.org/ViT-B-32.pt", tmp_path / "out")
    assert caught.value.where == "https://example.org/ViT-B-32.pt"
    with pytest.raises(UsageError) as caught:
        import_checkpoint(str(mini_checkpoint), tmp_path / "out")
    assert caught.value.where == str(mini_checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(tmp_path / "empty"), tmp_path / "out")
    assert caught.value.where == str(tmp_path / "empty")
    with pytest.raises(UsageError) as caught:
        import_checkpoint("nothing", mini_checkpoint)
    assert caught.value.where == str(mini_checkpoint)
