"""A SigLIP from its files to the server: fixed length, another tokenizer, a bias, and scores that are sigmoids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdx import load
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder
from kdx.runtime.triton import TritonEmbedder
from kdx.serve.repository import write_repository
from kdx.serve.supervisor import TritonServer

from ..models.foreign.small_models import siglip

TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]
LABELS = ["dog", "cats", "Zürich", "photo"]


def test_it_is_imported_exported_and_served_with_the_answers_of_pytorch(
    parity_samples: ParitySamples, make_photo: Callable[..., bytes], tmp_path: Path
) -> None:
    siglip(tmp_path / "published")
    import_checkpoint(str(tmp_path / "published"), tmp_path / "model")
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
