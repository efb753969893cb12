"""Facts of export/gate_inputs.py: what is asked depends on the model's tokenizer, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.export.gate_inputs import prepare
from kdx.export.samples import ParitySamples
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.text_tokenizer import tokenizer_of
from kdx.runtime.torch import TorchEncoder

from ..models.foreign.small_tokenizers import t5

T5 = {"hf_tokenizer_name": "someone/t5", "vocab_size": 48}
POOLINGS: dict[str, dict[str, Any]] = {
    "argmax": {"vocab_size": 49408},
    "eos": {**T5, "pool_type": "eos", "eos_id": 1},  # Meta's worldwide CLIPs
    "last": {**T5, "pool_type": "last", "no_causal_mask": True},  # SigLIP
}


@pytest.fixture
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> TorchEncoder:
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 2, **POOLINGS[request.param]}
    architecture = Architecture.model_validate(
        {
            "name": "toy",
            "embed_dim": 24,
            "custom_text": True,
            "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
            "text_cfg": text,
        }
    )
    t5(tmp_path)
    tokenizer = tokenizer_of(architecture, tmp_path if "hf_tokenizer_name" in text else None)
    save_checkpoint(tmp_path / "model", build_model(architecture, 1), architecture, tokenizer)
    return TorchEncoder(open_checkpoint(tmp_path / "model"))


@pytest.mark.parametrize("encoder", POOLINGS, indirect=True)
def test_every_probe_is_read_whole(encoder: TorchEncoder, parity_samples: ParitySamples) -> None:
    """A tower that finds no end of text reads the first token alone, and any padding leaves that as it is."""
    inputs = prepare(encoder, parity_samples)
    for name in ("text/batch3", "text/batch7"):
        answers = inputs.expected[name]
        distances = 1 - answers @ answers.T
        assert distances[~np.eye(len(answers), dtype=bool)].min() > 1e-4
    end = list(encoder.tokenizer.end)
    assert all(row[-len(end) :].tolist() == end for row in inputs.requests["text/batch7"])


@pytest.mark.parametrize("encoder", POOLINGS, indirect=True)
def test_an_empty_text_is_a_text(encoder: TorchEncoder) -> None:
    """Of which T5's tokenizer makes one id, less than a text tower takes."""
    alone, among = encoder.embed_texts([""]), encoder.embed_texts(["", "a dog"])
    np.testing.assert_allclose(alone[0], among[0], atol=1e-6)
