"""Facts of distill/compiled_towers.py, with the backend that compiles nothing: what is traced, and how often."""

import torch
from torch._dynamo.testing import CompileCounter

from kdx.distill.compiled_towers import allowed_lengths, compile_towers
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model

VIT = {
    "name": "vit",
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}


def test_towers_are_traced_whole_a_few_times_and_keep_their_names() -> None:
    model = build_model(Architecture.model_validate(VIT), seed=0)
    pixels = torch.randn(2, 3, 16, 16)
    image, names = model.encode_image(pixels), list(model.state_dict())
    texts = [torch.full((rows, length), 98) for length in allowed_lengths(77) for rows in (2, 5)]
    expected = [model.encode_text(text) for text in texts]
    counter = CompileCounter()
    compile_towers(model, masks_patches=False, backend=counter)  # type: ignore[arg-type]
    assert torch.allclose(model.encode_image(pixels), image, atol=1e-6)
    assert all(
        torch.allclose(model.encode_text(text), before, atol=1e-5)
        for text, before in zip(texts, expected, strict=True)
    )
    assert counter.frame_count <= 1 + 6 and list(model.state_dict()) == names


def test_with_masks_the_image_tower_is_left_as_it_is() -> None:
    model = build_model(Architecture.model_validate(VIT), seed=0)
    counter = CompileCounter()
    compile_towers(model, masks_patches=True, backend=counter)  # type: ignore[arg-type]
    model.encode_image(torch.randn(2, 3, 16, 16))
    assert counter.frame_count == 0
