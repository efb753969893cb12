"""Facts of kdx/models/grad_checkpointing.py."""

import copy

import pytest
import torch

from kdx.core.errors import UsageError
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.clip import ClipModel
from kdx.models.grad_checkpointing import checkpoint_gradients

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 3}
VIT = {"image_size": 16, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}


def _student(trunk: str, size: int) -> Architecture:
    timm = {"timm_model_name": trunk, "timm_pool": "", "timm_proj": "linear", "image_size": size}
    vision = VIT if trunk == "ViT" else timm
    return Architecture.model_validate(
        {"name": "student", "embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    )


def _gradients(model: ClipModel, size: int) -> dict[str, torch.Tensor]:
    """Of two steps' losses, so that the second sees the batch statistics that the first left."""
    model.train()
    for seed in (0, 1):
        torch.manual_seed(seed)
        image = model.encode_image(torch.rand(4, 3, size, size), normalize=True)
        text = model.encode_text(torch.randint(1, 40, (4, 6)), normalize=True)
        (model.logit_scale.exp() * image @ text.T).diag().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("trunk", "size"),
    [
        ("ViT", 16),
        ("kdx_mini", 32),
        ("test_vit", 160),
        ("test_convnext", 64),
        ("test_efficientnet", 64),
    ],
)
def test_gradients_and_batch_statistics_are_those_without(trunk: str, size: int) -> None:
    plain = build_model(_student(trunk, size))
    checkpointed = copy.deepcopy(plain)
    checkpoint_gradients(checkpointed)
    expected, found = _gradients(plain, size), _gradients(checkpointed, size)
    assert expected.keys() == found.keys() == dict(plain.named_parameters()).keys()
    for parameter, gradient in expected.items():
        assert torch.allclose(found[parameter], gradient, rtol=1e-4, atol=1e-5), parameter
    expected_state, found_state = plain.state_dict(), checkpointed.state_dict()
    assert all(torch.equal(found_state[key], value) for key, value in expected_state.items())


def test_both_towers_really_compute_twice() -> None:
    model = build_model(_student("ViT", 16))
    checkpoint_gradients(model)
    calls = []
    for tower in (model.visual.transformer, model.transformer):
        for block in tower.resblocks:  # type: ignore[union-attr]
            block.register_forward_pre_hook(lambda module, _: calls.append(module))
    _gradients(model, 16)
    assert len(calls) == 2 * 2 * 6  # two steps, forward and repetition, six blocks


@pytest.mark.parametrize(("name", "tower"), [("RN50", "ModifiedResNet"), ("timm:vgg11", "VGG")])
def test_a_tower_that_cannot_is_refused(name: str, tower: str) -> None:
    with torch.device("meta"):
        model = build_model(read_architecture(name))
    with pytest.raises(UsageError) as caught:
        checkpoint_gradients(model)
    assert tower in caught.value.what


def test_a_hugging_face_text_tower_computes_its_activations_again() -> None:
    config = {
        **{"model_type": "roberta", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2},
        **{
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 12,
            "pad_token_id": 1,
        },
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }
    text = {"hf_model_name": "mine", "hf_config": config, "width": 32, "context_length": 8}
    described = {"name": "x", "embed_dim": 32, "vision_cfg": VIT, "text_cfg": text}
    plain = build_model(Architecture.model_validate(described))
    checkpointed = copy.deepcopy(plain)
    checkpoint_gradients(checkpointed)
    assert checkpointed.text_tower.transformer.is_gradient_checkpointing
    expected, found = _gradients(plain, 16), _gradients(checkpointed, 16)
    assert expected.keys() == found.keys() and any(name.startswith("text.") for name in found)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
