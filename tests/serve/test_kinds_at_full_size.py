"""One model of each other kind, at full size: from its published files through import, export and gate to the server.

With -s it prints the rows of docs/benchmarks/architectures.md. The weights are open_clip's own random ones, since
published ones are not everywhere; keys, shapes, kinds of tokenizer and preprocessing are those of the hub's folders.
A few minutes each; `-k SigLIP2` runs one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from torch import nn

from kdx.data.synthetic.drawn_set import draw_sample
from kdx.export.comparison import ONE_DIRECTION, mean_pairwise_cosine
from kdx.export.exported import export_checkpoint
from kdx.export.samples import ParitySamples
from kdx.models.checkpoint import Checkpoint, open_checkpoint
from kdx.models.foreign.importing import import_checkpoint
from kdx.runtime.torch import TorchEncoder
from kdx.runtime.triton import TritonEmbedder
from kdx.serve.repository import write_repository
from kdx.serve.supervisor import TritonServer

from ..models.foreign.small_tokenizers import gemma

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
UNIT = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "size": [256, 256]}
KINDS: dict[str, dict[str, Any]] = {
    "ViT-B-16-SigLIP2": HALF,
    "MobileCLIP2-S2": UNIT,
    "EVA02-B-16": {},
    "coca_ViT-B-32": {},
    "convnext_base_w": {},
}
FEW = 32  # for the gate: structure, shapes and numbers; 299 are needed for decisions
LABELS = ["circle", "square", "star", "dog"]
NOT_A_WORD = "filler{}▁"  # the vocabulary of a small tokenizer is filled up with these


def _publish(name: str, preprocess: dict[str, Any], folder: Path) -> Any:
    """A folder in open_clip's layout, with a tokenizer of the kind that the architecture names. Returns its model."""
    model: Any = open_clip.create_model(name).eval()
    described = open_clip.get_model_config(name) or {}
    _set_batch_norms(model)
    folder.mkdir()
    if described["text_cfg"].get("hf_tokenizer_name"):
        gemma(folder)
        _fill_vocabulary(folder / "tokenizer.json", described["text_cfg"]["vocab_size"])
    config = {"model_cfg": described, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return model


def _fill_vocabulary(path: Path, size: int) -> None:
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    for number in range(max(vocabulary.values()) + 1, size):
        vocabulary[NOT_A_WORD.format(number)] = number
    path.write_text(json.dumps(content))


def _set_batch_norms(model: Any) -> None:
    """Statistics of what they see and a bias: with those of a new network all images share one direction."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        nn.init.constant_(norm.bias, 0.5)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model.encode_image(torch.rand(16, 3, 256, 256))
    model.eval()


def _embeddings(model: Any, checkpoint: Checkpoint, images: Any, texts: Any) -> tuple[Any, Any]:
    """open_clip's own, of the texts padded to the whole context."""
    spec, tokenizer = checkpoint.spec, checkpoint.tokenizer
    preprocess = spec.preprocess()
    pixels = torch.stack([torch.from_numpy(preprocess(image)) for image in images])
    tokens = torch.full((len(texts), spec.context_length), spec.pad_id)
    for row, text in zip(tokens, texts, strict=True):
        ids = tokenizer.encode(text, spec.context_length)
        row[: len(ids)] = torch.tensor(ids)
    with torch.no_grad():
        found = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    return found[0].numpy(), found[1].numpy()


@pytest.mark.parametrize("name", KINDS)
def test_it_is_served_with_the_answers_of_pytorch(name: str, tmp_path: Path) -> None:
    published = _publish(name, KINDS[name], tmp_path / "published")
    seconds = [time.monotonic()]
    import_checkpoint(str(tmp_path / "published"), tmp_path / "model")
    seconds.append(time.monotonic())
    checkpoint = open_checkpoint(tmp_path / "model")
    drawn = [draw_sample("test", row, seed=0, image_size=256) for row in range(FEW)]
    samples = ParitySamples(
        [sample.image for sample in drawn], [sample.captions[0] for sample in drawn], paired=True
    )
    exported = export_checkpoint(checkpoint, tmp_path / "exported", samples=samples, allow_inconclusive=True)
    seconds.append(time.monotonic())
    write_repository(exported.path, tmp_path / "repository")
    images, texts = samples.images[:8], samples.texts[:8]
    reference = TorchEncoder(checkpoint)
    expected = _embeddings(published, checkpoint, images, texts)
    for encoded, theirs in zip(
        (reference.embed_images(images), reference.embed_texts(texts)), expected, strict=True
    ):
        assert np.abs(encoded - theirs).max() < 1e-5
        assert mean_pairwise_cosine(theirs) < ONE_DIRECTION  # else any two models would agree
    with (
        TritonServer(tmp_path / "repository", tmp_path / "log", start_timeout=600) as server,
        TritonEmbedder(server.url) as served,
    ):
        distances = [
            float(np.abs(ours - theirs).max())
            for ours, theirs in (
                (served.embed_images(images), reference.embed_images(images)),
                (served.embed_texts(texts), reference.embed_texts(texts)),
            )
        ]
        answers, wanted = (each.classify(images, LABELS, top_k=4) for each in (served, reference))
    assert max(distances) < 1e-5
    for row, expected in zip(answers, wanted, strict=True):
        assert dict(row) == pytest.approx(dict(expected), abs=1e-4)
    parity = exported.parity()
    checks = {check["name"]: check["value"] for check in parity["tiers"]["numbers"]["checks"]}
    worst = max(checks["image max_abs"], checks["text max_abs"])
    took = ", ".join(f"{second:.0f} s" for second in np.diff(seconds))
    size = sum(file.stat().st_size for file in exported.path.iterdir()) / 1e6
    print(f"\n| {name} | {took} | {worst:.1e} | {max(distances):.1e} | {size:,.0f} MB |")
