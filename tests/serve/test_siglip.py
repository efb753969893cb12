"""A SigLIP from its files to the server: fixed length, another tokenizer, a bias, and scores that are sigmoids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from kdx import load
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model
from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder
from kdx.runtime.triton import TritonEmbedder
from kdx.serve.repository import write_repository
from kdx.serve.supervisor import TritonServer

from ..models.foreign.small_tokenizers import t5

MODEL = {
    "embed_dim": 24,
    "init_logit_bias": -2.0,
    "custom_text": True,
    "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {
        "context_length": 40,
        "vocab_size": 48,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "hf_tokenizer_name": "someone/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]
LABELS = ["dog", "cats", "Zürich", "photo"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the hub has it, in open_clip's layout."""
    folder = tmp_path / "published"
    t5(folder)
    described = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    model = build_model(Architecture.model_validate(MODEL | {"name": "toy"}), 3)
    with torch.no_grad():
        model.text.text_projection.bias.normal_(std=0.1)  # pyright: ignore
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_it_is_imported_exported_and_served_with_the_answers_of_pytorch(
    published: Path, parity_samples: ParitySamples, make_photo: Callable[..., bytes], tmp_path: Path
) -> None:
    import_checkpoint(str(published), tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    exported = tmp_path / "exported"
    outcome = export_checkpoint(checkpoint, exported, format="onnx", samples=parity_samples)
    assert outcome.parity()["verdict"] == "PASS"
    write_repository(exported, tmp_path / "repository")
    images = [make_photo(seed) for seed in range(3)]
    reference = TorchEncoder(checkpoint)
    answers = reference.classify(images, LABELS, top_k=len(LABELS))
    for row in answers:  # each label is judged by itself
        scores = [score for _, score in row]
        assert not np.isclose(sum(scores), 1) and 1 > scores[0] > scores[-1] > 0
    with (
        TritonServer(tmp_path / "repository", tmp_path / "log") as server,
        TritonEmbedder(server.url) as served,
        load(exported) as local,
    ):
        for encoder in (local, served):
            np.testing.assert_allclose(
                encoder.embed_images(images), reference.embed_images(images), atol=1e-5
            )
            np.testing.assert_allclose(encoder.embed_texts(TEXTS), reference.embed_texts(TEXTS), atol=1e-5)
            for row, expected in zip(
                encoder.classify(images, LABELS, top_k=len(LABELS)), answers, strict=True
            ):
                assert [label for label, _ in row] == [label for label, _ in expected]
                scores, wanted = ([score for _, score in each] for each in (row, expected))
                assert scores == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow  # pt2 compiles for half a minute
@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp16"), ("openvino", "fp32"), ("pt2", "fp32")])
def test_it_passes_the_gate_in_other_formats(
    published: Path, parity_samples: ParitySamples, format: str, precision: str, tmp_path: Path
) -> None:
    import_checkpoint(str(published), tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    exported = export_checkpoint(
        checkpoint, tmp_path / "exported", format=format, precision=precision, samples=parity_samples
    )
    assert exported.parity()["verdict"] == "PASS"
    with load(exported.path) as local:
        given = TorchEncoder(checkpoint).embed_texts(TEXTS)
        np.testing.assert_allclose(local.embed_texts(TEXTS), given, atol=1e-3)
