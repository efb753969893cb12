"""Foreign checkpoints, made here at full key sets: a small model with weights, and any model without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdx.models.architectures import Architecture, build_model
from kdx.models.clip import ClipModel

END = 49407
State = dict[str, Any]

SMALL_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


def describe(quick_gelu: bool = False, **vision: Any) -> Architecture:
    tower = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8} | vision
    return Architecture.model_validate(
        {
            "name": "small",
            "embed_dim": 48,
            "vision_cfg": tower,
            "text_cfg": SMALL_TEXT,
            "quick_gelu": quick_gelu,
        }
    )


@pytest.fixture(scope="session")
def small_vit() -> Architecture:
    """An architecture that neither kdx nor open_clip has."""
    return describe()


@pytest.fixture(scope="session")
def embed() -> Callable[[Any], tuple[Tensor, Tensor]]:
    """Unit embeddings of fixed pixels and tokens by any CLIP of open_clip's interface."""

    def embed(model: Any) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        size = model.visual.image_size
        side = size if isinstance(size, int) else size[0]
        pixels = torch.randn(2, 3, side, side, generator=generator)
        tokens = torch.randint(1, 49406, (2, model.context_length), generator=generator)
        tokens[0, 5], tokens[0, 6:] = END, 0
        tokens[1, -1] = END
        with torch.no_grad():
            return model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)

    return embed


@pytest.fixture(scope="session")
def full_keys() -> Callable[[Architecture], dict[str, Tensor]]:
    """The whole state dict of an architecture, each tensor one number of its own that is repeated by a stride of 0."""

    def make(architecture: Architecture) -> dict[str, Tensor]:
        with torch.device("meta"):
            state = build_model(architecture).state_dict()
        return {
            key: torch.tensor(float(number)).to(tensor.dtype).expand(tensor.shape)
            for number, (key, tensor) in enumerate(state.items())
        }

    return make


@pytest.fixture(scope="session")
def small_model(small_vit: Architecture) -> ClipModel:
    return build_model(small_vit, seed=1).eval()
