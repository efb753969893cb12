"""The slow tier of export: every architecture at full size, in every format and precision that this machine builds.

Each goes through the real gate, by the limits of its format's record. With -s it prints the rows of
docs/benchmarks/architectures.md. A format that this machine lacks skips with what is missing; `trt` and `trt-rtx` are
built where there is a GPU for them, and deferred elsewhere. Hours for all; `-k "ViT-T-16 and openvino"` runs a part.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdx.core.errors import SetupError
from kdx.data.sampling import readable_samples
from kdx.data.shards import Sample, open_split
from kdx.data.synthetic.drawn_set import draw_sample
from kdx.export import onnx as onnx_builder
from kdx.export.comparison import ONE_DIRECTION
from kdx.export.deferred import defer_export
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.architectures import build_model, read_architecture, shipped_names
from kdx.models.checkpoint import Checkpoint, describe
from kdx.models.clip import ClipModel
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.runtime.deferred import DEFERRABLE
from kdx.runtime.exported_model import ExportedModel

from .every_case import CASES, Case, case_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * 3600)]

FULL_SIZE = [name for name in shipped_names() if not name.startswith("kdx-")]
# 59 without a difference show that at most 5 % of int8's decisions differ; the 1 % of other precisions needs 299
HELD_OUT = 60
CALIBRATION = 48  # kdx takes no fewer than 32
FEW = 4  # of a deferred export, whose gate is not run here

Samples = tuple[ParitySamples, ParitySamples]
FIRST_TIERS = ("structure", "shapes", "numbers")


@pytest.fixture(scope="module")
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Held-out and calibration pairs: photos with captions where a machine has them, else drawn ones."""
    counts = {"test": HELD_OUT, "train": CALIBRATION}
    try:
        archives = request.getfixturevalue("real_photos") / "flickr8k"
    except pytest.skip.Exception:
        drawn = {
            split: [draw_sample(split, row, seed=0, image_size=256) for row in range(count)]
            for split, count in counts.items()
        }
        return _pairs(drawn["test"]), _pairs(drawn["train"])
    folder = tmp_path_factory.mktemp("flickr8k")
    for split in counts:
        archive = min(archives.glob(f"{split}-*.tar.gz"))
        with gzip.open(archive) as source, (folder / archive.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    held_out, calibration = (readable_samples(open_split(folder, s), n) for s, n in counts.items())
    return _pairs(held_out), _pairs(calibration)


def _pairs(samples: list[Sample]) -> ParitySamples:
    return ParitySamples(
        [sample.image for sample in samples], [sample.captions[0] for sample in samples], paired=True
    )


@pytest.fixture(scope="module", params=FULL_SIZE)
def checkpoint(request: pytest.FixtureRequest, samples: Samples) -> Checkpoint:
    """With random weights, as `kdx models init` makes them, and batch norms that have seen photos."""
    architecture = read_architecture(request.param)
    model, tokenizer = build_model(architecture, 0).eval(), clip_tokenizer()
    spec = describe(model, architecture, tokenizer, "0" * 64)
    preprocess = spec.preprocess()
    _set_batch_norms(model, torch.stack([torch.from_numpy(preprocess(image)) for image in samples[1].images]))
    return Checkpoint(Path(request.param), model, spec, tokenizer, architecture)


def _set_batch_norms(model: ClipModel, pixels: torch.Tensor) -> None:
    """Statistics of photos, and a bias, as trained networks have one.

    With batch norms of a new network all images of RN50 and RN101 share one direction (mean pairwise cosine 0.999), and
    no distance means anything. With statistics of photos and no bias each layer magnifies what rounding did before it:
    EfficientNet-B0 in bf16 comes to 2.5e-3, trained to 1e-3, with this bias to 2e-4 (mean pairwise cosine 0.92).
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        nn.init.constant_(norm.bias, 0.5)
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.train()
    with torch.no_grad():
        for batch in pixels.split(16):
            model.encode_image(batch)
    model.eval()


Saved = Callable[[], float]


@pytest.fixture(scope="module")
def graphs_made_once(checkpoint: Checkpoint) -> Iterator[Saved]:
    """Formats of one architecture share what they start from: its traces, and its calibrated int8 graphs.

    Gives a function that says how many seconds that saved since it was last asked.
    """
    made: dict[Any, tuple[Path, Any, float]] = {}
    saved: list[float] = []
    trace, build_int8 = onnx_builder.export_towers, onnx_builder.build_int8

    def reuse(key: Any, folder: Path, make: Callable[[Path], Any]) -> Any:
        if key in made:
            saved.append(made[key][2])
        else:
            started, kept, before = time.monotonic(), Path(tempfile.mkdtemp(dir=cache)), sum(saved)
            answer = make(kept)
            made[key] = kept, answer, time.monotonic() - started + sum(saved) - before
        kept, answer, _ = made[key]
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        return answer

    def trace_once(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        reuse(dtype, folder, lambda kept: trace(checkpoint, kept, dtype))

    def build_int8_once(job: Any) -> Any:
        return reuse(job.target, job.folder, lambda kept: build_int8(replace(job, folder=kept)))

    def seconds_saved() -> float:
        total = sum(saved)
        saved.clear()
        return total

    with tempfile.TemporaryDirectory(prefix="kdx-graphs-") as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_builder, "export_towers", trace_once)
        patch.setattr(onnx_builder, "build_int8", build_int8_once)
        yield seconds_saved


@pytest.fixture
def out() -> Iterator[Path]:
    """Not pytest's own folder, which it keeps: all of these would be some 20 GB."""
    with tempfile.TemporaryDirectory(prefix="kdx-full-size-") as folder:
        yield Path(folder) / "exported"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_it_passes_the_gate_or_is_deferred_with_the_builders_consent(
    checkpoint: Checkpoint,
    case: Case,
    samples: Samples,
    graphs_made_once: Saved,
    out: Path,
) -> None:
    format_, precision, target = case
    held_out, calibration = samples
    wanted: dict[str, Any] = {
        "format": format_.name,
        "precision": precision,
        "target": target,
        "calibration": calibration if precision == "int8" else None,
        "allow_inconclusive": True,
    }
    graphs_made_once()
    started = time.monotonic()
    try:
        format_.check_machine(precision, target)
    except SetupError as lacking:
        if format_.name not in DEFERRABLE:
            pytest.skip(lacking.what)
        pytest.importorskip("tensorrt_rtx")
        few = replace(held_out, images=held_out.images[:FEW], texts=held_out.texts[:FEW])
        deferred = defer_export(checkpoint, out, samples=few, **wanted)
        result = str(deferred.manifest.fields["proved_by"])
        assert ("built" if format_.name == "trt-rtx" else "parsed") in result
    else:
        result = _passed(export_checkpoint(checkpoint, out, samples=held_out, **wanted))
    seconds = time.monotonic() - started + graphs_made_once()
    sizes = " + ".join(f"{megabytes:.1f}" for megabytes in _megabytes(out))
    print(f"\n| {checkpoint.spec.name} | {case_name(case)} | {result} | {seconds:.0f} s | {sizes} MB |")


def _passed(model: ExportedModel) -> str:
    """What the gate found, which must be all right as far as so few samples can tell."""
    report = model.parity()
    assert {report["tiers"][name]["verdict"] for name in FIRST_TIERS} == {"PASS"}
    assert report["verdict"] in ("PASS", "INCONCLUSIVE")
    # else cosines near 1 would pass anything
    assert max(report[tower]["mean_pairwise_cosine"] for tower in ("image", "text")) < ONE_DIRECTION
    angles = " / ".join(f"{1 - report[tower]['min_cosine']:.1e}" for tower in ("image", "text"))
    components = " / ".join(f"{report[tower]['max_abs']:.1e}" for tower in ("image", "text"))
    return f"{report['verdict']} | 1-cos {angles} | component {components}"


def _megabytes(folder: Path) -> list[float]:
    """Of the image and the text encoder, with data files beside them."""
    return [
        sum(file.stat().st_size for file in folder.glob(f"{tower}_encoder.*")) / 1e6
        for tower in ("image", "text")
    ]
