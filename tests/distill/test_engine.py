"""Facts of distill/engine.py and distill/teacher_cache.py at toy size."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import open_sealed
from kdx.core.log import read_metrics
from kdx.core.preprocess import decode_image, normalize
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import key_digest, render_view
from kdx.distill import Recipe, open_teacher, read_recipe, train
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.torch import TorchEncoder

MakeSamples = Callable[..., list[Sample]]
TOY = ["steps=6", "batch_size=8", "optimizer.warmup_steps=2", "views.num_views=2"]


@pytest.fixture
def samples(tmp_path: Path, make_samples: MakeSamples) -> ShardSet:
    write_shards(tmp_path / "data", "train", make_samples(20), samples_per_shard=12)
    return open_split(tmp_path / "data", "train")


def _recipe(name: str = "demo-baseline", *settings: str) -> Recipe:
    return read_recipe(name, [*TOY, *settings])


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return open_checkpoint(run).model.state_dict()


def test_a_run_is_sealed_and_holds_recipe_metrics_and_student(tmp_path: Path, samples: ShardSet) -> None:
    result = train(_recipe(), samples, tmp_path / "run")
    open_sealed(tmp_path / "run", "run")
    assert read_recipe(str(tmp_path / "run" / "recipe.toml")) == _recipe()
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["step"] == 6 and line["loss"] == pytest.approx(line["task"]) == pytest.approx(
        result.final_loss
    )
    assert open_checkpoint(tmp_path / "run").path == result.student


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path, samples: ShardSet) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(_recipe("demo-baseline", f"seed={seed}"), samples, tmp_path / name)
    one, two, three = (_weights(tmp_path / name) for name in ("one", "two", "three"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["visual.head.proj.weight"], three["visual.head.proj.weight"])


def test_training_lowers_the_loss_of_a_small_set(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe("demo-baseline", "steps=80", "batch_size=20"), samples, tmp_path / "run")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 0.5 * losses[0]


def test_the_cache_holds_the_teachers_embeddings_of_each_view_and_caption(
    tmp_path: Path, samples: ShardSet
) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    recipe = _recipe("demo-clip-kd")
    cached = open_teacher(recipe, samples, tmp_path / "teacher", tmp_path / "cache")
    assert cached is not None and not cached.reused
    assert cached.image.shape == (20, 2, 64) and cached.text.shape == (20, 1, 64)
    with TorchEncoder.open(tmp_path / "teacher") as teacher:
        row, view = 13, 1
        sample = samples[row]
        pixels = render_view(
            decode_image(sample.image), recipe.views, key_digest(sample.key), view, 32, "bicubic"
        )
        image = teacher.encode_image(normalize(pixels[None], teacher.spec.mean, teacher.spec.std))[0]
        text = teacher.embed_texts(sample.captions)[0]
    assert np.abs(cached.image[row, view] - image).max() < 1e-3  # fp16
    assert np.abs(cached.text[row, 0] - text).max() < 1e-3


def test_distilling_moves_the_student_towards_the_teacher(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    recipe = _recipe("demo-clip-kd", "steps=60", "batch_size=20")
    cached = open_teacher(recipe, samples, tmp_path / "teacher", tmp_path / "cache")
    train(recipe, samples, tmp_path / "run", cached=cached)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["teacher_cosine"] > 0.8 > lines[0]["teacher_cosine"]
    assert {"task", "crd", "fd", "icl"} <= lines[-1].keys()


def test_a_cache_is_reused_only_for_the_same_teacher_views_and_data(
    tmp_path: Path, samples: ShardSet
) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    recipe, teacher, cache = _recipe("demo-clip-kd"), tmp_path / "teacher", tmp_path / "cache"
    open_teacher(recipe, samples, teacher, cache)
    again = open_teacher(recipe, samples, teacher, cache)
    assert again is not None and again.reused
    with pytest.raises(UsageError, match="teacher, views or data differ"):
        open_teacher(_recipe("demo-clip-kd", "views.seed=1"), samples, teacher, cache)
    file = next(cache.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="changed"):
        open_teacher(recipe, samples, teacher, cache)


def test_a_teacher_is_asked_for_exactly_when_the_objective_needs_one(
    tmp_path: Path, samples: ShardSet
) -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        open_teacher(_recipe("demo-clip-kd"), samples, None, tmp_path / "cache")
    with pytest.raises(UsageError, match="does not use a teacher"):
        open_teacher(_recipe(), samples, tmp_path / "teacher", tmp_path / "cache")


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_no_run(
    tmp_path: Path, samples: ShardSet
) -> None:
    with pytest.raises(UsageError, match="not finite at step"):
        train(_recipe("demo-baseline", "optimizer.lr=1e30", "steps=50"), samples, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_corrupt_images_are_listed_in_the_run(tmp_path: Path, make_samples: MakeSamples) -> None:
    good = make_samples(20)
    broken = Sample(key="broken", image=good[0].image[:60], captions=("x",), label=None)
    write_shards(tmp_path / "data", "train", [*good, broken])
    samples = open_split(tmp_path / "data", "train")
    result = train(_recipe("demo-baseline", "max_bad_share=0.1"), samples, tmp_path / "run")
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert result.bad_images == 1 and json.loads(line)["key"] == "broken"
