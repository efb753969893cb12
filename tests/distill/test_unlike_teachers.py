"""An ensemble of a CLIP and a SigLIP: each sees the views and captions of the run in its own pixels and tokens."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdx.core.errors import SetupError, UsageError
from kdx.core.images import decode_image
from kdx.core.log import read_metrics
from kdx.core.tokenizers import HuggingFaceTokenizer
from kdx.data.loader import Batch
from kdx.data.pixels import read_pixels
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import choose_view
from kdx.distill import Recipe, open_teachers, read_recipe, run_recipe, train
from kdx.distill.student import student_tokenizer
from kdx.distill.teachers import ask_at_each_step, cache_folders
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import (
    open_checkpoint,
    read_checkpoint_architecture,
    read_checkpoint_spec,
    save_checkpoint,
)
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.foreign import hub
from kdx.models.foreign.hugging_face_tokenizer import Wishes, read_hugging_face_tokenizer

from ..models.foreign.small_tokenizers import t5

CPU = torch.device("cpu")
TOY = ["steps=2", "batch_size=8", "optimizer.warmup_steps=1", "views.num_views=3"]
TOY += ["views.scale=[0.3, 0.6]", "views.flip=true"]
ALL = ["objective.crd=1", "objective.fd=1", "objective.icl=1", "objective.afd=1", "objective.cross_kd=1"]
ALL += ["objective.affinity=1"]
RECIPE = read_recipe("demo-baseline", [*TOY, *ALL])
SIGLIP = {
    "name": "toy-siglip",
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 123,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "pool_type": "last",
        "hf_tokenizer_name": "someone/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
    "custom_text": True,
    "init_logit_scale": float(np.log(110)),
    "init_logit_bias": -16.0,
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., list[Sample]]) -> ShardSet:
    words = (
        "a",
        "large",
        "dog",
        "and",
        "two",
        "small",
        "cats",
        "in",
        "New",
        "York,",
        "not",
        "far",
        "Zürich;",
    )
    captions = [
        tuple(" ".join(Random(2 * n + second).choices(words, k=3 + 9 * second)) for second in range(2))
        for n in range(24)
    ]
    data = tmp_path_factory.mktemp("pairs") / "data"
    write_shards(data, "train", make_samples(24, captions))
    return open_split(data, "train")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A CLIP, 64 wide, of 32 pixels; a SigLIP, 24 wide, of 48 pixels with another mean, that reads T5's pieces."""
    tmp_path = tmp_path_factory.mktemp("teachers")
    clip = read_architecture("kdx-mini-teacher")
    save_checkpoint(tmp_path / "clip", build_model(clip, 1), clip, clip_tokenizer())
    t5(tmp_path / "tokenizer")
    tokenizer = read_hugging_face_tokenizer(tmp_path / "tokenizer", Wishes(clean="canonicalize"))
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    vocabulary: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    siglip = Architecture.model_validate(SIGLIP | {"text_cfg": SIGLIP["text_cfg"] | vocabulary})
    save_checkpoint(tmp_path / "siglip", build_model(siglip, 2), siglip, tokenizer)
    return [tmp_path / "clip", tmp_path / "siglip"]


def _batch(samples: ShardSet) -> Batch:
    rows, views, captions = np.array([4, 17, 4, 9]), np.array([0, 2, 1, 1]), np.array([1, 0, 0, 1])
    pixels = [
        read_pixels(
            samples.image(row),
            RECIPE.architecture.preprocess,
            functools.partial(choose_view, RECIPE.views, int(samples.key_digests[row]), view),
        )
        for row, view in zip(rows.tolist(), views.tolist(), strict=True)
    ]
    return Batch(0, rows, views, captions, np.stack(pixels), np.zeros((4, 1), dtype=np.int32))


def _expected(samples: ShardSet, batch: Batch, teacher: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """By Pillow's crop, the teacher's own preprocessing and its tokenizer, one sample at a time."""
    checkpoint = open_checkpoint(teacher)
    spec, preprocess = checkpoint.spec, checkpoint.spec.preprocess()
    images, texts = [], []
    for row, view, caption in zip(batch.rows, batch.views, batch.captions, strict=True):
        image = decode_image(samples.image(int(row)))
        chosen = choose_view(RECIPE.views, int(samples.key_digests[row]), int(view), *image.size)
        seen = np.asarray(preprocess.resize(image, chosen.box))
        pixels = preprocess.normalize(np.ascontiguousarray(seen[:, ::-1]) if chosen.mirrored else seen)
        ids = checkpoint.tokenizer.encode(samples.captions(int(row))[caption], spec.context_length)
        with torch.no_grad():
            images.append(checkpoint.model.encode_image(torch.from_numpy(pixels)[None])[0])
            texts.append(checkpoint.model.encode_text(torch.from_numpy(spec.pad([ids])))[0])
    return F.normalize(torch.stack(images), dim=-1), F.normalize(torch.stack(texts), dim=-1)


def test_each_sees_its_own_pixels_and_tokens_from_a_cache_and_online(
    samples: ShardSet, teachers: list[Path], tmp_path: Path
) -> None:
    batch = _batch(samples)
    caches = open_teachers(RECIPE, samples, teachers, tmp_path / "cache", storage="fp32")
    asked = ask_at_each_step(RECIPE, samples, teachers)
    assert [cache.embed_dim for cache in caches] == [each.embed_dim for each in asked] == [64, 24]
    for teacher, cache, online in zip(teachers, caches, asked, strict=True):
        image, text = _expected(samples, batch, teacher)
        for said in (cache.of_batch(batch, CPU), online.of_batch(batch, CPU)):
            # two levels of 255 apart: training decodes by another library than Pillow
            assert F.cosine_similarity(said.image, image).min() > 0.9995
            assert torch.allclose(said.text, text, atol=1e-5)
            assert (said.scale.item(), said.bias and said.bias.item()) == {
                "clip": (pytest.approx(1 / 0.07), None),
                "siglip": (pytest.approx(110), -16),
            }[teacher.name]
        others = F.cosine_similarity(image[:, None], image[None], dim=-1)
        assert others.fill_diagonal_(0).max() < 0.9995  # another view or image would be noticed
        assert not torch.allclose(text[0], text[1], atol=1e-3)


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_a_student_of_either_kind_learns_from_both_alike_with_and_without_caches(
    contrast: str, samples: ShardSet, teachers: list[Path], tmp_path: Path
) -> None:
    recipe = read_recipe("demo-baseline", [*TOY, *ALL, f"objective.contrast='{contrast}'"])
    sources = {
        "cached": open_teachers(recipe, samples, teachers, tmp_path / "cache", storage="fp32"),
        "asked": ask_at_each_step(recipe, samples, teachers),
    }
    curves = {}
    for name, caches in sources.items():
        train(recipe, samples, tmp_path / name, caches=caches, teachers=teachers)
        curves[name] = read_metrics(tmp_path / name / "metrics.jsonl")
    for term in ("loss", *recipe.objective.terms):
        values = [[row[term] for row in curves[name]] for name in sources]
        assert values[0] == pytest.approx(values[1], rel=1e-4) and all(value > 0 for value in values[0])


def test_caches_that_lie_there_teach_an_ensemble(
    samples: ShardSet, teachers: list[Path], tmp_path: Path
) -> None:
    """Made for one teacher each, as users have them, or for both together."""
    one = read_recipe("demo-baseline", [*TOY, "objective.fd=1"])
    places = [tmp_path / "of-clip", tmp_path / "of-siglip"]
    for teacher, place in zip(teachers, places, strict=True):
        open_teachers(one, samples, [teacher], place)
    settings = ["objective.crd=1", "objective.contrast='sigmoid'", "objective.teacher_scale=[70, 60]"]
    recipe = read_recipe("demo-baseline", [*TOY, *settings])
    run = tmp_path / "run"
    result = run_recipe(recipe, samples.folder, run, teachers=teachers, cache=places)
    assert result.cache_reused and not list(tmp_path.glob("run.cache*"))
    spec = open_checkpoint(result.path).spec
    assert spec.logit_bias == pytest.approx(-10, abs=0.1) and spec.embed_dim == 64
    with pytest.raises(UsageError, match="needs"):
        open_teachers(recipe, samples, teachers, places[::-1])
    with pytest.raises(UsageError, match="3 times for 2 teachers"):
        run_recipe(recipe, samples.folder, tmp_path / "x", teachers=teachers, cache=[*places, tmp_path])
    open_teachers(recipe, samples, teachers, tmp_path / "both")
    assert (tmp_path / "both").is_dir() and (tmp_path / "both.2").is_dir()


def test_a_students_tokenizer_is_a_teachers_or_missed_before_anything_is_made(
    samples: ShardSet, teachers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, siglip = teachers
    architecture = read_checkpoint_architecture(siglip).changed(name="student")
    monkeypatch.setattr(Recipe, "architecture", property(lambda _: architecture))
    monkeypatch.setattr(hub, "_unreachable_hub", lambda: "no network")
    assert student_tokenizer(RECIPE, teachers).digest == read_checkpoint_spec(siglip).tokenizer_digest
    with pytest.raises(SetupError) as missing:
        open_teachers(RECIPE, samples, [clip], tmp_path / "cache")
    assert missing.value.where == "someone/siglip" and "hf download" in (missing.value.remedy or "")
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_teacher_is_no_second_one(
    samples: ShardSet, teachers: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(teachers[0], tmp_path / "copy")
    with pytest.raises(UsageError, match="again") as caught:
        open_teachers(RECIPE, samples, [teachers[0], tmp_path / "copy"], tmp_path / "cache")
    assert caught.value.where == str(tmp_path / "copy")
    with pytest.raises(UsageError, match="cache of two teachers"):
        cache_folders([tmp_path / "cache", tmp_path / "cache"], 2)
