"""Facts of kdx/models/foreign/hub.py, with open_clip's downloads replaced: tests have no network."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from open_clip import factory, pretrained
from open_clip.transform import PreprocessCfg
from torch import Tensor

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.models.architectures import Architecture
from kdx.models.checkpoint import open_checkpoint
from kdx.models.clip import ClipModel
from kdx.models.foreign import hub
from kdx.models.foreign.hub import fetch, fetch_tokenizer
from kdx.models.foreign.importing import import_checkpoint
from kdx.models.foreign.known import model_key
from kdx.models.foreign.preprocessing import read_open_clip_preprocess
from kdx.models.open_clip_architectures import from_open_clip

from .small_tokenizers import t5

Embed = Callable[[Any], tuple[Tensor, Tensor]]


def _no_network(*_: object, **__: object) -> str:
    raise OSError("[Errno -3] Temporary failure in name resolution\nand more")


def test_a_tag_is_downloaded_with_what_its_publisher_states(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, *_, **__: asked.append(name) or "/x/weights.bin")
    published = fetch("ViT-B-32:laion2b_s34b_b79k")
    assert published.weights == Path("/x/weights.bin")
    assert asked[0].startswith("laion/")
    assert published.architecture.name == "ViT-B-32"
    assert published.architecture.preprocess_cfg.interpolation == "bicubic"


def test_the_tag_decides_on_quick_gelu_where_open_clip_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: "/x/weights.bin")
    monkeypatch.setattr(pretrained, "download_pretrained", lambda cfg: "/x/weights.bin")
    architecture = fetch("ViT-B/32:openai").architecture
    assert architecture.quick_gelu is True and architecture.name == "ViT-B-32-quickgelu"


def test_every_tag_is_fetched_and_described_as_open_clip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def hf_hub_download(repo_id: str, filename: str, **_: object) -> str:
        asked.append((repo_id, filename))
        if filename.endswith(".safetensors"):
            raise EntryNotFoundError("404")
        return "/x/weights.bin"

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(pretrained, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert len(open_clip.list_pretrained()) == 196
    for name, tag in open_clip.list_pretrained():
        published = open_clip.get_pretrained_cfg(name, tag)
        assert pretrained.download_pretrained(published) == "/x/weights.bin"
        theirs = list(asked)
        asked.clear()
        architecture = fetch(f"{name}:{tag}").architecture
        assert asked == theirs, (name, tag)
        asked.clear()

        described = open_clip.get_model_config(name) or {}
        if published.get("quick_gelu"):  # open_clip warns of a name without
            described["quick_gelu"] = True
        assert model_key(architecture) == model_key(from_open_clip(name, described, name)), (name, tag)
        assert architecture.text_cfg.tokenizer_name == described["text_cfg"].get("hf_tokenizer_name")
        assert architecture.preprocess.image_size == described["vision_cfg"].get("image_size", 224)
        prepared = factory.merge_preprocess_dict(PreprocessCfg(), published)
        for field, value in dict(architecture.preprocess_cfg).items():
            assert value == prepared[field], (name, tag, field)


def test_unknown_tags_and_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        fetch("ViT-B-32:laion2b_s34b_b79")
    assert caught.value.remedy == "did you mean ViT-B-32:laion2b_s34b_b79k?"
    with pytest.raises(UsageError) as caught:
        fetch("ViT-B-33:openai")
    assert caught.value.remedy and caught.value.remedy.startswith("did you mean ViT-B-")


def test_a_tokenizer_is_fetched_with_the_settings_that_its_repository_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snapshot"
    t5(folder)

    def hf_hub_download(repository: str, file: str, **_: object) -> str:
        if not (folder / file).is_file():
            raise EntryNotFoundError("404")
        return str(folder / file)

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert fetch_tokenizer("someone/siglip") == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="runs in Python alone") as caught:
        fetch_tokenizer("someone/siglip")
    assert caught.value.where == "someone/siglip" and "save_pretrained" in str(caught.value.remedy)


def test_without_a_network_a_tokenizer_says_how_to_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(SetupError, match="tokenizer cannot be downloaded") as caught:
        fetch_tokenizer("someone/siglip")
    assert "hf download someone/siglip" in str(caught.value.remedy)


def test_without_a_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "hf_hub_download", _no_network)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    for source, repository in (
        ("ViT-B-32:laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("hf-hub:someone/some-clip", "someone/some-clip"),
    ):
        with pytest.raises(SetupError) as caught:
            import_checkpoint(source, tmp_path / "out")
        assert "\n" not in str(caught.value) and "name resolution" in str(caught.value)
        assert caught.value.remedy and f"hf download {repository} --local-dir DIR" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_hub_that_does_not_resolve_is_not_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(SetupError) as caught:
        fetch("ViT-B-32:laion2b_s34b_b79k")
    assert caught.value.where == "ViT-B-32:laion2b_s34b_b79k" and "huggingface.co" in caught.value.what


@pytest.fixture
def repository(
    small_vit: Architecture, small_model: ClipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An open_clip repository as open_clip's push_to_hf_hub writes it, and a hub that has it."""
    folder = tmp_path / "some-clip"
    folder.mkdir()
    model = {field: small_vit.to_dict()[field] for field in ("embed_dim", "vision_cfg", "text_cfg")}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "size": [32, 32]}
    config = {"model_cfg": {**model, "custom_text": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {
        key if key.startswith(("visual.", "logit_scale")) else f"text.{key}": value
        for key, value in small_model.state_dict().items()
    }
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")

    def hf_hub_download(repo_id: str, filename: str, **_: object) -> str:
        if repo_id != "someone/some-clip" or not (folder / filename).is_file():
            raise OSError("404")
        return str(folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    return folder


def test_a_repository_of_open_clip_is_imported_from_hub_and_folder(
    repository: Path, small_model: ClipModel, embed: Embed, tmp_path: Path
) -> None:
    for number, source in enumerate(("hf-hub:someone/some-clip", str(repository))):
        report = import_checkpoint(source, tmp_path / str(number))
        opened = open_checkpoint(tmp_path / str(number))
        assert report.architecture == "some-clip" and report.assumptions == ()
        assert opened.spec.mean == (0.5, 0.5, 0.5) and opened.spec.interpolation == "bilinear"
        for ours, theirs in zip(embed(opened.model), embed(small_model), strict=True):
            assert torch.equal(ours, theirs)


def test_a_repository_that_is_not_open_clips_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hf_hub_download(repo_id: str, filename: str, **_: object) -> str:
        raise EntryNotFoundError("404")

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    with pytest.raises(DataError, match=r"it has no open_clip_config\.json") as caught:
        import_checkpoint("hf-hub:openai/clip-vit-base-patch32", tmp_path / "out")
    assert "hf download openai/clip-vit-base-patch32" in str(caught.value.remedy)


def test_a_folder_with_nothing_but_a_weight_file_names_it(repository: Path, tmp_path: Path) -> None:
    (repository / "open_clip_config.json").unlink()
    (repository / "open_clip_model.safetensors").rename(repository / "mobileclip2_s0.pt")
    with pytest.raises(DataError, match="neither a folder of open_clip nor") as caught:
        import_checkpoint(str(repository), tmp_path / "out")
    assert str(repository / "mobileclip2_s0.pt") in str(caught.value.remedy)


def test_a_folder_of_both_layouts_is_read_as_open_clips(
    repository: Path, small_model: ClipModel, embed: Embed, tmp_path: Path
) -> None:
    """As DFN's and LAION's repositories are, with Hugging Face's form of the model beside it."""
    (repository / "config.json").write_text(json.dumps({"model_type": "clip", "projection_dim": 7}))
    safetensors.torch.save_file({"x": torch.zeros(1)}, repository / "model.safetensors")
    state = safetensors.torch.load_file(repository / "open_clip_model.safetensors")
    torch.save(state, repository / "open_clip_pytorch_model.bin")
    (repository / "open_clip_model.safetensors").unlink()
    import_checkpoint(str(repository), tmp_path / "out")
    for ours, theirs in zip(embed(open_checkpoint(tmp_path / "out").model), embed(small_model), strict=True):
        assert torch.equal(ours, theirs)


def test_an_image_tower_alone_is_said_to_be_one(repository: Path, tmp_path: Path) -> None:
    path = repository / "open_clip_config.json"
    config = json.loads(path.read_text())
    del config["model_cfg"]["text_cfg"]
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match="image tower alone"):
        import_checkpoint(str(repository), tmp_path / "out")


def test_a_folder_is_named_when_it_is_where_one_stands(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert import_checkpoint(".", tmp_path / "out").architecture == "some-clip"


def test_a_stated_architecture_leaves_nothing_to_say(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        import_checkpoint(str(repository), tmp_path / "out", quick_gelu=True)
    assert not (tmp_path / "out").exists() and caught.value.remedy


@pytest.mark.parametrize(
    ("preprocess", "what"),
    [
        (None, "table"),
        ([1], "table"),
        ({"mean": 0.5}, "mean = 0.5"),
        ({"mean": ["a", "b", "c"]}, "mean = ['a', 'b', 'c']"),
        ({"mean": [0.5] * 4}, "mean = [0.5, 0.5, 0.5, 0.5]"),
        ({"std": [1e999] * 3}, "std = [inf, inf, inf]"),
        ({"std": [0, 0, 0]}, "std = [0, 0, 0]"),
        ({"interpolation": "random"}, "interpolation = 'random'"),
        ({"resize_mode": [1]}, "resize_mode = [1]"),
    ],
)
def test_a_folder_whose_preprocessing_cannot_be_followed_is_refused(
    repository: Path, tmp_path: Path, preprocess: object, what: str
) -> None:
    path = repository / "open_clip_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "preprocess_cfg": preprocess}))
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(repository), tmp_path / "out")
    assert what in caught.value.what and caught.value.where == str(path)


def test_a_folder_whose_config_describes_nothing_is_refused(repository: Path, tmp_path: Path) -> None:
    config = json.loads((repository / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["colour"] = "blue"
    (repository / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(repository), tmp_path / "out")
    assert caught.value.where == str(repository / "open_clip_config.json")
    (repository / "open_clip_config.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(repository), tmp_path / "out")
    assert caught.value.where == str(repository / "open_clip_config.json")


@pytest.mark.parametrize(
    "stated",
    [
        {"size": 160},
        {"size": [224, 160]},
        {"mode": "L"},
        {"resize_mode": "longest", "fill_color": 255},
        {"crop_pct": 0.9},
    ],
)
def test_a_way_to_prepare_images_that_kdx_has_not_is_refused_by_name(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    with pytest.raises(DataError) as caught:
        read_open_clip_preprocess(stated, 224, tmp_path / "open_clip_config.json")
    assert list(stated)[-1] in caught.value.what


def test_what_open_clip_itself_writes_is_obeyed(tmp_path: Path) -> None:
    config = PreprocessCfg(size=224, mean=(0.5, 0.5, 0.5), resize_mode="squash")
    stated = json.loads(json.dumps(asdict(config)))
    read = read_open_clip_preprocess(stated, 224, tmp_path / "open_clip_config.json")
    assert read["mean"] == [0.5, 0.5, 0.5] and read["resize_mode"] == "squash"
