"""Facts of distill/text_blocks.py: texts in blocks have the embeddings and gradients of padded ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from kdx.distill.compiled_towers import allowed_lengths
from kdx.distill.devices import Device
from kdx.distill.text_blocks import MAX_BLOCKS, Texts, split_rows, text_lengths
from kdx.models.architectures import build_model, read_architecture
from kdx.models.clip import ClipModel

CPU = Device(torch.device("cpu"))
END = 49407


def _tokens(lengths: list[int], padded_to: int) -> np.ndarray:
    random = np.random.default_rng(0)
    tokens = np.zeros((len(lengths), padded_to), dtype=np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(0, 49406, length)  # 0 is a token too
        tokens[row, length - 1] = END
    return tokens


def _gradients(model: ClipModel, embeddings: torch.Tensor) -> list[torch.Tensor]:
    learnt = [p for name, p in model.named_parameters() if name.startswith(("transformer", "token", "text"))]
    return list(torch.autograd.grad((embeddings * torch.linspace(-1, 1, embeddings.shape[1])).sum(), learnt))


def test_blocks_have_the_embeddings_and_gradients_of_the_padded_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model(read_architecture("kdx-mini"), seed=0)
    tokens = _tokens([5, 30, 3, 12, 8, 8, 31, 4, 9, 2], 32)
    monkeypatch.setattr(Device, "block_cost", lambda *_: 1.0)
    texts = Texts.of(tokens, CPU, 64)
    assert len(texts.blocks) > 3
    blocks, padded = texts.encode(model), model.encode_text(torch.from_numpy(tokens))
    assert (blocks - padded).abs().max() < 5e-6
    for mine, theirs in zip(_gradients(model, blocks), _gradients(model, padded), strict=True):
        assert (mine - theirs).abs().max() < 5e-6 * max(1.0, float(theirs.abs().max()))


def test_one_block_is_the_batch_as_it_came() -> None:
    tokens = _tokens([5, 30, 3], 32)
    texts = Texts.of(tokens, CPU, 64)
    assert texts.order is None and np.array_equal(texts.blocks[0].numpy(), tokens[:, :30])


def test_a_length_goes_to_the_last_token() -> None:
    assert text_lengths(np.array([[7, 0, 9, 0], [7, 9, 0, 0], [7, 8, 1, 9]])).tolist() == [3, 2, 4]
    assert text_lengths(np.array([[7, 0, 9, 0], [7, 9, 1, 1]]), pad_id=1).tolist() == [4, 2]


def test_the_number_of_blocks_weighs_padding_against_their_cost() -> None:
    # One block: 4 · 20 tokens. Two: 2 · 2 + 2 · 20. Four: 2 + 2 + 20 + 20.
    lengths = np.array([20, 2, 20, 2])
    assert [rows.tolist() for rows in split_rows(lengths, 35.0)] == [[1, 3], [0, 2]]
    assert len(split_rows(lengths, 37.0)) == 1


@given(st.lists(st.integers(2, 77), min_size=1, max_size=40), st.floats(0, 500))
def test_every_row_is_in_one_block(lengths: list[int], cost: float) -> None:
    blocks = split_rows(np.array(lengths), cost)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(lengths))) and len(blocks) <= MAX_BLOCKS


def test_compiled_towers_see_few_lengths_and_give_the_same_embeddings() -> None:
    model = build_model(read_architecture("kdx-mini"), seed=0)
    tokens = _tokens([5, 14, 3, 12, 8, 8, 25, 4, 9, 2], 25)
    expected = model.encode_text(torch.from_numpy(tokens))
    allowed = allowed_lengths(model.context_length)
    texts = Texts.of(tokens, CPU, 64, 3, allowed)
    assert {block.shape[1] for block in texts.blocks} == {16, 32} and len(allowed_lengths(77)) == 6
    assert (texts.encode(model) - expected).abs().max() < 5e-6


def test_texts_are_lengthened_with_what_the_tower_takes_for_padding() -> None:
    texts = Texts.of(np.array([[5, 6, 2], [5, 2, 1]]), CPU, 64, 1, (4,), pad_id=1)
    assert texts.blocks[0].tolist() == [[5, 6, 2, 1], [5, 2, 1, 1]]
