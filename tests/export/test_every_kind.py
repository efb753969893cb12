"""Small models of other kinds than a causal CLIP, through the gate in each format and precision of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx import load
from kdx.core.errors import SetupError
from kdx.export.comparison import ONE_DIRECTION, cosine_distances
from kdx.export.deferred import defer_export
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import Checkpoint, open_checkpoint
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.deferred import DEFERRABLE
from kdx.runtime.torch import TorchEncoder

from ..models.foreign.small_models import KINDS
from ..models.foreign.small_tokenizers import TEXTS as CAPTIONS
from .every_case import CASES, Case, case_name

pytestmark = pytest.mark.slow  # pt2 compiles for half a minute

HELD_OUT, CALIBRATION = 320, 96
LABELS = ("dog", "cats", "Zürich", "photo")
TEXTS = ["A photo of the LARGE dog!", "two small cats", "", "in New_York " * 9]

Samples = tuple[ParitySamples, ParitySamples]


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder / "published")
    import_checkpoint(str(folder / "published"), folder / "model")
    return open_checkpoint(folder / "model")


@pytest.fixture(scope="module")
def samples(make_photo: Callable[..., bytes]) -> Samples:
    """Held-out and calibration samples, with captions of words that the tokenizers know: others they read alike."""
    photos = [make_photo(seed) for seed in range(HELD_OUT + CALIBRATION)]
    captions = np.random.default_rng(0).permutation(CAPTIONS)[: len(photos)].tolist()
    held_out = ParitySamples(photos[:HELD_OUT], captions[:HELD_OUT], LABELS)
    return held_out, ParitySamples(photos[HELD_OUT:], captions[HELD_OUT:], LABELS)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_it_passes_the_gate_or_is_deferred_with_the_builders_consent(
    checkpoint: Checkpoint, samples: Samples, case: Case, tmp_path: Path
) -> None:
    (format_, precision, target), (held_out, calibration) = case, samples
    wanted: dict[str, Any] = {
        "samples": held_out,
        "format": format_.name,
        "precision": precision,
        "target": target,
        "calibration": calibration if precision == "int8" else None,
    }
    try:
        format_.check_machine(precision, target)
    except SetupError as lacking:
        if format_.name not in DEFERRABLE:
            pytest.skip(lacking.what)
        pytest.importorskip("tensorrt_rtx")
        deferred = defer_export(checkpoint, tmp_path / "deferred", **wanted)
        proof = "built" if format_.name == "trt-rtx" else "parsed"
        assert proof in str(deferred.manifest.fields["proved_by"])
        return
    exported = export_checkpoint(checkpoint, tmp_path / "exported", **wanted)
    parity = exported.parity()
    assert parity["verdict"] == "PASS"
    # else cosines near 1 would pass anything
    assert max(parity[tower]["mean_pairwise_cosine"] for tower in ("image", "text")) < ONE_DIRECTION
    if target == "trt":
        return  # the gate alone runs such a file in ONNX Runtime
    with load(exported.path) as local:
        distances = cosine_distances(TorchEncoder(checkpoint).embed_texts(TEXTS), local.embed_texts(TEXTS))
    assert distances.max() < format_.precisions[precision].cosine_distance
