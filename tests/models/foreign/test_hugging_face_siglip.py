"""Facts of kdx/models/foreign/hugging_face_siglip.py: small SiglipModel folders, as transformers itself writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, _create_vision_transformer
from tokenizers import Tokenizer

from kdx.core.errors import DataError
from kdx.models.architectures import count_parameters, read_architecture
from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign.hugging_face_siglip import read_architecture as read_folder
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder

from .small_tokenizers import gemma, t5

transformers = pytest.importorskip("transformers")

default_cfgs = generate_default_cfgs({"vit_toy_patch8_siglip_32": {"url": ""}})
TEXTS = ["A photo of the LARGE dog!", "two small cats", "in New_York " * 9]


@register_model
def vit_toy_patch8_siglip_32(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Stands for one of timm's, all of which are large."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 3.0}
    kind = {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer("vit_toy_patch8_siglip_32", pretrained, **(sizes | kind | options))


VISION = {
    **{"hidden_size": 48, "intermediate_size": 144, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"image_size": 32, "patch_size": 8},
}
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 16, "projection_size": 48},
}
PROCESSOR = {
    **{"do_normalize": True, "do_rescale": True, "do_resize": True, "do_convert_rgb": None, "resample": 2},
    **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255},
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 32, "width": 32},
}


def _write(
    folder: Path,
    tokenizer: Callable[[Path], None] = gemma,
    act: str = "gelu_pytorch_tanh",
    dtype: torch.dtype = torch.float32,
    **save: Any,
) -> Any:
    """The model as transformers has it, also saved in the folder with a tokenizer of its kind."""
    tokenizer(folder)
    rows = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = transformers.SiglipConfig(
        text_config={**TEXT, "vocab_size": rows, "hidden_act": act},
        vision_config={**VISION, "hidden_act": act},
    )
    torch.manual_seed(7)
    model = transformers.SiglipModel(config).eval()
    for parameter in model.parameters():  # so that no two norms or biases are equal
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder, **save)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


def _imported(folder: Path) -> Any:
    out = folder.with_name("imported")
    import_checkpoint(str(folder), out)
    return open_checkpoint(out)


@pytest.mark.parametrize("tokenizer", [gemma, t5], ids=["SigLIP 2", "SigLIP"])
@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu"])
def test_a_siglip_folder_gives_the_features_of_transformers(
    tmp_path: Path, tokenizer: Callable[[Path], None], act: str
) -> None:
    theirs = _write(tmp_path / "their-siglip", tokenizer, act)
    ours = _imported(tmp_path / "their-siglip")
    pixels = torch.randn(3, 3, 32, 32)
    tokens = torch.randint(0, ours.model.vocab_size, (3, 16))
    with torch.no_grad():
        images = theirs.get_image_features(pixels).pooler_output
        texts = theirs.get_text_features(tokens).pooler_output
        torch.testing.assert_close(ours.model.encode_image(pixels), images, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.model.encode_text(tokens), texts, atol=1e-5, rtol=0)
    assert ours.spec.logit_scale == pytest.approx(theirs.logit_scale.exp().item(), rel=1e-6)
    assert ours.spec.logit_bias == pytest.approx(float(theirs.logit_bias), rel=1e-6)
    assert (ours.spec.name, ours.spec.text_padding) == ("their-siglip", "full")


def test_its_images_are_prepared_as_its_own_processor_does(tmp_path: Path) -> None:
    _write(tmp_path / "x")
    ours = _imported(tmp_path / "x")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))
    theirs = transformers.SiglipImageProcessorPil.from_pretrained(tmp_path / "x")
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours.spec.preprocess()(image), expected, atol=1e-6)


def test_its_texts_are_those_of_its_tokenizer_with_open_clips_cleaning(tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    theirs = _write(tmp_path / "x")
    ours = _imported(tmp_path / "x")
    split = HFTokenizer(str(tmp_path / "x"), context_length=16, clean="canonicalize")
    with torch.no_grad():
        expected = theirs.get_text_features(split(TEXTS)).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(TorchEncoder(ours).embed_texts(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_in_shards_are_widened_and_it_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = _write(tmp_path / "x", dtype=dtype, max_shard_size="100KB")
    assert len(list((tmp_path / "x").glob("*.safetensors"))) > 1
    report = import_checkpoint(str(tmp_path / "x"), tmp_path / "out")
    assert report.changes[-1].endswith(f"of {str(dtype).removeprefix('torch.')} into float32")
    weights = open_checkpoint(tmp_path / "out").model.state_dict()
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert torch.equal(weights["text.ln_final.weight"], theirs.text_model.final_layer_norm.weight.float())


def test_a_folder_without_its_tokenizer_is_said_to_be_that(tmp_path: Path) -> None:
    _write(tmp_path / "alone")
    for file in (tmp_path / "alone").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="holds no tokenizer") as caught:
        import_checkpoint(str(tmp_path / "alone"), tmp_path / "out")
    assert "--tokenizer DIR" in (caught.value.remedy or "") and not (tmp_path / "out").exists()


def test_prefixes_of_wrappers_are_removed_before_the_keys_are_read(tmp_path: Path) -> None:
    _write(tmp_path / "x")
    file = tmp_path / "x" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({f"module._orig_mod.{key}": value for key, value in state.items()}, file)
    report = import_checkpoint(str(tmp_path / "x"), tmp_path / "out")
    assert "removed the prefix" in report.changes[0]


@pytest.mark.parametrize(
    ("size", "name", "trunk"),
    [
        ((768, 12, 12, 3072, 16, 256), "ViT-B-16-SigLIP2-256", "vit_base_patch16_siglip_256"),
        ((768, 12, 12, 3072, 32, 256), "ViT-B-32-SigLIP2-256", "vit_base_patch32_siglip_256"),
        ((1536, 40, 16, 6144, 16, 256), "ViT-gopt-16-SigLIP2-256", "vit_giantopt_patch16_siglip_256"),
    ],
)
def test_the_published_sizes_have_open_clips_parameters(
    tmp_path: Path, size: tuple[int, ...], name: str, trunk: str
) -> None:
    width, layers, heads, mlp, patch, side = size
    tower = {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp}
    text = {**tower, "hidden_size": width, "vocab_size": 256000}
    if width == 1536:  # whose text tower is So400m's
        text = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}
        text |= {"intermediate_size": 4304, "vocab_size": 256000, "projection_size": 1536}
    vision = {**tower, "hidden_size": width, "image_size": side, "patch_size": patch}
    config = {"model_type": "siglip", "text_config": text, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, known = read_folder(tmp_path), read_architecture(name)
    assert found.vision_cfg.timm_model_name == trunk
    assert found.text_cfg.hf_tokenizer_name == known.text_cfg.hf_tokenizer_name
    assert count_parameters(found).total_params == count_parameters(known).total_params
    # where timm's trunk has the tanh form itself, the model is open_clip's by name
    assert (found.name == name) == (found.vision_cfg.timm_act is None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": {"num_hidden_layers": 11}}, "none of timm's for SigLIP"),
        ({"vision_config": {"image_size": 230}}, "images of 230"),
        ({"vision_config": {"layer_norm_eps": 1e-5}}, "none of timm's for SigLIP"),
        ({"vision_config": {"vision_use_head": False}}, "no pooling head"),
        ({"vision_config": {"num_channels": 1}}, "1 channels"),
        ({"vision_config": {"hidden_act": "relu"}}, "vision_config: hidden_act is relu"),
        ({"text_config": {"projection_size": 7}}, "its texts are 7 wide and its images 768"),
        ({"text_config": {"num_attention_heads": 7}}, "7 heads do not divide"),
        ({"model_type": "siglip2"}, "type siglip2: a NaFlex SigLIP 2"),
        ({"model_type": "siglip_vision_model"}, "one tower of a pair"),
        ({"model_type": "chinese_clip"}, "Chinese BERT"),
        ({"model_type": "altclip"}, "an XLM-R"),
        ({"model_type": "clipseg"}, "it segments"),
        ({"architectures": ["SiglipForImageClassification"]}, "class SiglipForImageClassification"),
        (
            {"model_type": "clip", "architectures": ["EVACLIPModel"]},
            "class EVACLIPModel, and kdx reads CLIPModel",
        ),
        ({"model_type": "modernbert"}, "type modernbert: kdx reads clip, metaclip_2, siglip"),
    ],
)
def test_what_kdx_has_no_architecture_for_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "x").mkdir()
    config = {"model_type": "siglip", **change}
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "x" / "model.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint(str(tmp_path / "x"), tmp_path / "out")
    assert caught.value.where == str(tmp_path / "x" / "config.json") and caught.value.remedy
    assert not (tmp_path / "out").exists()
