"""Facts of kdx/models/foreign/hugging_face_clip.py: CLIPModel folders, written here by a mapping of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from torch import Tensor

from kdx.core.errors import DataError
from kdx.models.checkpoint import open_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.foreign.hugging_face_clip import read_architecture
from kdx.models.foreign.hugging_face_config import mlp_ratio
from kdx.models.foreign.importing import import_checkpoint

Embed = Callable[[Any], tuple[Tensor, Tensor]]

WIDTH = {"text": 64, "vision": 128}
CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 48,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 16,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 300,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
    },
}


def _model(quick_gelu: bool = True) -> CLIP:
    torch.manual_seed(5)
    vision = {
        **{"image_size": 32, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
        **{"mlp_ratio": 300 / 128, "norm_kwargs": {"eps": 1e-6}},
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    model = CLIP(48, vision, text, quick_gelu=quick_gelu).eval()  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():  # so that no two norms or biases are equal
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


def _block(block: Any, prefix: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    width = block.attn.embed_dim
    for number, part in enumerate(("q", "k", "v")):
        rows = slice(number * width, (number + 1) * width)
        state[f"{prefix}.self_attn.{part}_proj.weight"] = block.attn.in_proj_weight[rows]
        state[f"{prefix}.self_attn.{part}_proj.bias"] = block.attn.in_proj_bias[rows]
    for name, module in (
        ("self_attn.out_proj", block.attn.out_proj),
        ("layer_norm1", block.ln_1),
        ("mlp.fc1", block.mlp.c_fc),
        ("mlp.fc2", block.mlp.c_proj),
        ("layer_norm2", block.ln_2),
    ):
        state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"] = module.weight, module.bias
    return state


def _hugging_face_state(model: Any) -> dict[str, Tensor]:
    visual: Any = model.visual
    state = {
        "logit_scale": model.logit_scale,
        "text_model.embeddings.position_ids": torch.arange(16)[None],
        "text_model.embeddings.token_embedding.weight": model.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": model.positional_embedding,
        "text_model.final_layer_norm.weight": model.ln_final.weight,
        "text_model.final_layer_norm.bias": model.ln_final.bias,
        "text_projection.weight": model.text_projection.T,
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "vision_model.embeddings.class_embedding": visual.class_embedding,
        "vision_model.embeddings.patch_embedding.weight": visual.conv1.weight,
        "vision_model.embeddings.position_embedding.weight": visual.positional_embedding,
        "vision_model.pre_layrnorm.weight": visual.ln_pre.weight,
        "vision_model.pre_layrnorm.bias": visual.ln_pre.bias,
        "vision_model.post_layernorm.weight": visual.ln_post.weight,
        "vision_model.post_layernorm.bias": visual.ln_post.bias,
        "visual_projection.weight": visual.proj.T,
    }
    for number, block in enumerate(model.transformer.resblocks):
        state |= _block(block, f"text_model.encoder.layers.{number}")
    for number, block in enumerate(visual.transformer.resblocks):
        state |= _block(block, f"vision_model.encoder.layers.{number}")
    return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}


def _write(folder: Path, model: CLIP, config: dict[str, Any] = CONFIG, form: str = "safetensors") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    state = _hugging_face_state(model)
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "safetensors":
        safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    else:
        names = {key: f"model-0000{1 + number % 2}-of-00002.{form}" for number, key in enumerate(state)}
        for name in set(names.values()):
            shard = {key: state[key] for key in state if names[key] == name}
            if form == "safetensors-shards":
                safetensors.torch.save_file(shard, folder / name)
            else:
                torch.save(shard, folder / name)
        index = "model.safetensors" if form == "safetensors-shards" else "pytorch_model.bin"
        (folder / f"{index}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def _change(section: str, **values: Any) -> dict[str, Any]:
    return {**CONFIG, section: {**CONFIG[section], **values}}


@pytest.mark.parametrize("form", ["safetensors", "bin", "safetensors-shards", "bin-shards"])
def test_a_clip_model_folder_gives_its_embeddings(tmp_path: Path, embed: Embed, form: str) -> None:
    model = _model()
    report = import_checkpoint(str(_write(tmp_path / "their-clip", model, form=form)), tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    assert report.architecture == opened.spec.name == "their-clip"
    assert report.assumptions == ()
    assert opened.architecture.quick_gelu is True
    for ours, theirs in zip(embed(opened.model), embed(model), strict=True):
        assert torch.equal(ours, theirs)


def test_gelu_comes_from_hidden_act(tmp_path: Path, embed: Embed) -> None:
    config = _change("text_config", hidden_act="gelu", eos_token_id=49407)
    config["vision_config"] = {**CONFIG["vision_config"], "hidden_act": "gelu"}
    gelu, quick = _model(quick_gelu=False), _model(quick_gelu=True)
    import_checkpoint(str(_write(tmp_path / "x", gelu, config)), tmp_path / "out")
    ours = embed(open_checkpoint(tmp_path / "out").model)
    assert all(torch.equal(a, b) for a, b in zip(ours, embed(gelu), strict=True))
    assert not any(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, embed(quick), strict=True))


def test_what_a_config_leaves_out_is_transformers_default(tmp_path: Path) -> None:
    """openai/clip-vit-base-patch32 is the default of every field."""
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    architecture = read_architecture(tmp_path)
    assert architecture.embed_dim == 512 and architecture.quick_gelu is True
    assert architecture.vision_cfg.to_dict() == {
        **{"width": 768, "layers": 12, "image_size": 224, "patch_size": 32, "head_width": 64},
    }
    assert architecture.text_cfg.to_dict() == {
        **{"width": 512, "layers": 12, "heads": 8, "context_length": 77, "vocab_size": 49408},
    }


def test_text_config_dict_outranks_text_config(tmp_path: Path) -> None:
    config = {**CONFIG, "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = read_architecture(tmp_path).text_cfg
    assert (text.width, text.heads, text.layers) == (768, 12, 12)
    assert text.mlp_ratio == 2048 / 768  # the default intermediate_size stays


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        (
            {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": 32, "crop_size": 32},
            {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
        ),
        (
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 2},
            {"interpolation": "bilinear", "resize_mode": "shortest"},
        ),
        ({"size": {"height": 32, "width": 32}}, {"interpolation": "bicubic", "resize_mode": "squash"}),
    ],
)
def test_the_preprocessor_is_kept(
    tmp_path: Path, preprocessor: dict[str, Any], expected: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert read_architecture(tmp_path).preprocess_cfg.to_dict() == expected


@pytest.mark.parametrize(
    "preprocessor", [{"size": {"shortest_edge": 40}}, {"resample": 0}, {"size": 32, "do_center_crop": False}]
)
def test_a_preparation_that_kdx_does_not_do_is_refused(tmp_path: Path, preprocessor: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    with pytest.raises(DataError) as caught:
        read_architecture(tmp_path)
    assert str(caught.value.where).endswith("preprocessor_config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_change("text_config", hidden_act="gelu"), "hidden_act is gelu and quick_gelu"),
        (_change("vision_config", num_channels=1), "1 channels"),
        (_change("text_config", eos_token_id=7), "eos_token_id is 7, not the last id 49407"),
        (_change("text_config", hidden_size="64"), "hidden_size = '64'"),
    ],
)
def test_settings_that_kdx_does_not_have_are_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        read_architecture(tmp_path)


def test_a_config_that_belies_its_weights_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "x", _model(), _change("vision_config", num_hidden_layers=4))
    with pytest.raises(DataError, match=r"visual.transformer.resblocks.3"):
        import_checkpoint(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    folder = _write(tmp_path / "x", _model())
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["text_model.encoder.layers.1.self_attn.k_proj.weight"]
    state["text_model.new"] = torch.zeros(1)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(folder), tmp_path / "out")
    assert "missing (transformer.resblocks.1.attn.in_proj_weight)" in caught.value.what
    assert "text_model.new" in caught.value.what


def test_another_vocabulary_is_refused_and_clips_own_accepted(tmp_path: Path) -> None:
    folder = _write(tmp_path / "x", _model())
    theirs = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {
        theirs.get(symbol, symbol): number for symbol, number in clip_tokenizer().vocabulary.items()
    }
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    import_checkpoint(str(folder), tmp_path / "out")
    vocabulary["the</w>"], vocabulary["a</w>"] = vocabulary["a</w>"], vocabulary["the</w>"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(folder), tmp_path / "out2")
    assert caught.value.where == str(folder / "vocab.json")


@pytest.mark.parametrize("content", [{"model": 3}, {"model": {"vocab": [["a", 1]]}}, {}])
def test_a_tokenizer_without_a_vocabulary_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = _write(tmp_path / "x", _model())
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(folder), tmp_path / "out")
    assert caught.value.where == str(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"text_config": 3}, "text_config is no table"),
        ({"text_config": {"hidden_size": 0}}, "text_config: hidden_size = 0"),
        ({"vision_config": {"num_attention_heads": 0}}, "vision_config: num_attention_heads = 0"),
        ({"vision_config": {"hidden_size": -64}}, "vision_config: hidden_size = -64"),
        ({"vision_config": {"layer_norm_eps": "x"}}, "vision_config: layer_norm_eps = 'x'"),
        ({"projection_dim": "x"}, "describes no model: embed_dim = 'x'"),
    ],
)
def test_a_config_that_describes_nothing_is_refused(
    tmp_path: Path, config: dict[str, Any], what: str
) -> None:
    folder = _write(tmp_path / "x", _model())
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", **config}))
    with pytest.raises(DataError, match=what):
        import_checkpoint(str(folder), tmp_path / "out")


@pytest.mark.parametrize(
    "preprocessor", [{"resample": [3]}, {"image_mean": 0.5}, {"image_std": [0, 0, 0]}, {"size": [1]}]
)
def test_a_preprocessor_that_says_nothing_is_refused(tmp_path: Path, preprocessor: dict[str, Any]) -> None:
    folder = _write(tmp_path / "x", _model())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": 32, "crop_size": 32, **preprocessor})
    )
    with pytest.raises(DataError) as caught:
        import_checkpoint(str(folder), tmp_path / "out")
    assert caught.value.where == str(folder / "preprocessor_config.json")


@pytest.mark.parametrize("width", [64, 192, 768, 1280, 1408, 1664, 1792])
def test_the_ratio_gives_the_width_again(width: int) -> None:
    for mlp_width in range(width, 9 * width, 7):
        assert int(width * mlp_ratio(width, mlp_width)) == mlp_width


FIVE: dict[str, Any] = {  # as transformers 5 writes it
    "image_processor": {
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "CLIPImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 32},
    },
    "processor_class": "CLIPProcessor",
}


def _processor(folder: Path, **change: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    table = {**FIVE, "image_processor": {**FIVE["image_processor"], **change}}
    (folder / "processor_config.json").write_text(json.dumps(table))
    return folder


def test_the_image_processor_inside_processor_config_is_obeyed(tmp_path: Path) -> None:
    found = read_architecture(_processor(tmp_path)).preprocess
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    plain = read_architecture(_processor(tmp_path, do_normalize=False)).preprocess
    assert (plain.mean, plain.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("form", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_rescale", False),
        ("rescale_factor", 1.0),
        ("do_resize", False),
        ("do_center_crop", False),
        ("crop_size", {"height": 24, "width": 24}),
        ("size", {"shortest_edge": 40}),
        ("resample", 1),
        ("do_pad", True),
        ("something_new", "yes"),
    ],
)
def test_a_key_that_changes_pixels_is_refused_by_name_in_either_file(
    tmp_path: Path, form: str, key: str, value: Any
) -> None:
    _processor(tmp_path, **{key: value})
    if form == "preprocessor_config.json":
        table = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
        (tmp_path / "processor_config.json").unlink()
        (tmp_path / form).write_text(json.dumps(table))
    with pytest.raises(DataError) as caught:
        read_architecture(tmp_path)
    assert key in caught.value.what and caught.value.where == str(tmp_path / form)
