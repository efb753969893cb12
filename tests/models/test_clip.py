"""Facts of kdx/models/clip.py: text of any length."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from open_clip.model import CLIP
from torch import Tensor

from kdx.core.errors import UsageError
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.clip import ClipModel

END = 49407


@pytest.fixture(scope="module")
def model() -> ClipModel:
    return build_model(read_architecture("kdx-mini"), seed=0).eval()


def _tokens(lengths: list[int], padded_to: int) -> Tensor:
    """Random texts of the given lengths (start and end included), padded with 0."""
    tokens = torch.zeros(len(lengths), padded_to, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, 49406, (length,), generator=generator)
        tokens[row, length - 1] = END
    return tokens


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(2, 32), min_size=1, max_size=6))
def test_a_cut_batch_gives_the_embeddings_of_the_padded_batch(model: ClipModel, lengths: list[int]) -> None:
    padded = _tokens(lengths, 32)
    cut = padded[:, : max(lengths)]
    with torch.no_grad():
        difference = model.encode_text(cut, normalize=True) - model.encode_text(padded, normalize=True)
    assert difference.abs().max() < 1e-5


def test_at_full_length_it_is_open_clips_own_encoder(model: ClipModel) -> None:
    tokens = _tokens([5, 32, 17], 32)
    assert isinstance(model, CLIP)
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), CLIP.encode_text(model, tokens))


@pytest.mark.parametrize(("custom_text", "pooling"), [(True, "last"), (False, "last")])
def test_a_tower_that_sees_its_padding_takes_full_texts_only(custom_text: bool, pooling: str) -> None:
    described = read_architecture("kdx-mini").to_dict()
    text = {**described["text_cfg"], "pool_type": pooling, "no_causal_mask": True}
    architecture = Architecture.model_validate({**described, "text_cfg": text, "custom_text": custom_text})
    model = build_model(architecture)
    assert architecture.text_padding == "full" and architecture.text_pooling == pooling
    assert model.encode_text(_tokens([5], 32)).shape == (1, architecture.embed_dim)
    with pytest.raises(UsageError, match="9 tokens came instead of 32"):
        model.encode_text(_tokens([5], 9))


def test_its_state_dict_is_open_clips() -> None:
    architecture = read_architecture("kdx-mini")
    described = architecture.to_dict()
    theirs = CLIP(*(described[key] for key in ("embed_dim", "vision_cfg", "text_cfg"))).state_dict()
    ours = build_model(architecture).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
