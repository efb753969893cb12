"""Every model that open_clip knows by name, cut to one layer, learns as a student and runs as ONNX, in fp16 too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdx.export.comparison import cosine_distances
from kdx.export.onnx import export_towers
from kdx.export.session_trial import find_disabled_optimizers
from kdx.models.architectures import build_model
from kdx.models.checkpoint import Checkpoint, describe
from kdx.models.clip import ClipModel
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.open_clip_architectures import from_open_clip
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS
from kdx.runtime.onnx import open_session

from ..models.open_clip_cuts import cut, cut_trunks, padded_tokens

LIMIT = 1e-5
# of a cosine distance: the class token of one of timm's new networks (vit_relpos) is 1e-6, of which fp16 keeps a digit
HALF_LIMIT = 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_it_learns_and_is_exported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_trunks(monkeypatch)
    config = cut(open_clip.get_model_config(name) or {})
    checkpoint = _checkpoint(name, config)
    model, spec = checkpoint.model, checkpoint.spec
    pixels = torch.randn(2, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    tokens = padded_tokens(config, spec.context_length)
    _learn(model, pixels, tokens)
    export_towers(checkpoint, tmp_path)
    shorter = tokens[1:, : 6 if spec.has_free_length else None]
    for tower, key, given in (
        ("image_encoder", PIXELS, pixels),
        ("image_encoder", PIXELS, pixels[:1]),
        ("text_encoder", TOKENS, tokens),
        ("text_encoder", TOKENS, shorter),
    ):
        session = onnxruntime.InferenceSession(tmp_path / f"{tower}.onnx")
        sent = given.numpy() if key == PIXELS else given.numpy().astype(np.int32)
        answer = np.asarray(session.run(None, {key: sent})[0])
        np.testing.assert_allclose(answer, _embed(model, key, given), rtol=0, atol=LIMIT)
    half = tmp_path / "half"
    half.mkdir()
    export_towers(checkpoint, half, torch.float16)
    for tower, key, given in (("image_encoder", PIXELS, pixels), ("text_encoder", TOKENS, tokens.int())):
        path = half / f"{tower}.onnx"
        session = open_session(onnxruntime, path, 1, find_disabled_optimizers(path))
        (answer,) = session.run([IMAGE_FEATURES if key == PIXELS else TEXT_FEATURES], {key: given.numpy()})
        assert cosine_distances(_embed(model, key, given), answer).max() < HALF_LIMIT


def _embed(model: ClipModel, key: str, given: Tensor) -> NDArray[np.float32]:
    encode = model.encode_image if key == PIXELS else model.encode_text
    with torch.no_grad():
        return encode(given, normalize=True).numpy()


def _checkpoint(name: str, config: dict[str, Any]) -> Checkpoint:
    architecture = from_open_clip(name, config, name)
    model = build_model(architecture, seed=1).eval()
    tokenizer = clip_tokenizer()  # nothing is tokenized here
    spec = describe(model, architecture, tokenizer, "0" * 64)
    return Checkpoint(Path(name), model, spec, tokenizer, architecture)


def _learn(model: ClipModel, pixels: Tensor, tokens: Tensor) -> None:
    """Asserts that a step of CLIP's loss reaches the first weights of both towers. Leaves the model as it was."""
    images, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    F.cross_entropy(model.logit_scale.exp() * images @ texts.T, torch.arange(2)).backward()
    learnt = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert all(gradient.isfinite().all() for gradient in learnt.values())
    for own in (True, False):
        tower = [gradient for name, gradient in learnt.items() if name.startswith("visual.") == own]
        assert tower[0].abs().max() > 0 and len(tower) > 2
    model.zero_grad(set_to_none=True)
