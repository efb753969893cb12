"""Facts of distill/teacher_in_loop.py: a teacher asked at each step teaches what its cache does."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdx.core.errors import UsageError
from kdx.core.log import read_metrics
from kdx.data import pixels
from kdx.data.loader import Batch
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import choose_view
from kdx.distill import Recipe, open_teachers, read_recipe, run, run_recipe, teacher_in_loop, train
from kdx.distill.teachers import ask_at_each_step
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import read_checkpoint_architecture, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

TOY = ["steps=10", "batch_size=8", "optimizer.warmup_steps=1", "views.num_views=3"]
RECIPE = read_recipe("demo-clip-kd", TOY)
CPU = torch.device("cpu")


@pytest.fixture
def samples(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> ShardSet:
    captions = [(f"one {n}", f"another {n}, and longer") for n in range(20)]
    write_shards(tmp_path / "data", "train", make_samples(20, captions))
    return open_split(tmp_path / "data", "train")


@pytest.fixture(params=[32, 48])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Sees images of the student's size, 32, or of another one."""
    architecture = read_architecture("kdx-mini-teacher")
    architecture = architecture.changed(vision_cfg=architecture.vision_cfg.changed(image_size=request.param))
    save_checkpoint(tmp_path / "teacher", build_model(architecture, 1), architecture, clip_tokenizer())
    return tmp_path / "teacher"


def batch_of(samples: ShardSet, recipe: Recipe) -> Batch:
    rows, views, captions = np.array([4, 17, 4]), np.array([0, 2, 1]), np.array([1, 0, 0])
    read = [
        pixels.read_pixels(
            samples.image(row),
            recipe.architecture.preprocess,
            functools.partial(choose_view, recipe.views, int(samples.key_digests[row]), view),
        )
        for row, view in zip(rows.tolist(), views.tolist(), strict=True)
    ]
    return Batch(0, rows, views, captions, np.stack(read), np.zeros((3, 1), dtype=np.int32))


def test_it_says_of_a_batch_what_a_cache_in_fp32_says(
    samples: ShardSet, teacher: Path, tmp_path: Path
) -> None:
    (asked,) = ask_at_each_step(RECIPE, samples, [teacher])
    (cache,) = open_teachers(RECIPE, samples, [teacher], tmp_path / "cache", storage="fp32")
    batch = batch_of(samples, RECIPE)
    now, kept = asked.of_batch(batch, CPU), cache.of_batch(batch, CPU)
    assert asked.embed_dim == cache.embed_dim
    assert torch.allclose(now.image, kept.image, atol=1e-6) and torch.allclose(now.text, kept.text, atol=1e-6)
    assert not torch.allclose(now.image[0], now.image[2], atol=1e-4)  # two views of one image
    assert now.scale == kept.scale and now.bias is kept.bias is None


def test_it_computes_in_the_precision_of_the_run(samples: ShardSet, teacher: Path) -> None:
    batch = batch_of(samples, RECIPE)
    full, half = (
        ask_at_each_step(RECIPE.model_copy(update={"precision": precision}), samples, [teacher])[0].of_batch(
            batch, CPU
        )
        for precision in ("fp32", "bf16")
    )
    assert half.image.dtype == torch.float32
    assert 1e-5 < (full.image - half.image).abs().max() < 0.05
    assert 1e-5 < (full.text - half.text).abs().max() < 0.05


def test_the_comparison_notices_a_cache_whose_rows_are_shifted_by_one(
    samples: ShardSet, teacher: Path, tmp_path: Path
) -> None:
    (asked,) = ask_at_each_step(RECIPE, samples, [teacher])
    (cache,) = open_teachers(RECIPE, samples, [teacher], tmp_path / "cache", storage="fp32")
    batch = batch_of(samples, RECIPE)
    now, shifted = asked.of_batch(batch, CPU), cache.of_batch(replace(batch, rows=batch.rows + 1), CPU)
    for one, other in ((now.image, shifted.image), (now.text, shifted.text)):
        assert not torch.isclose(one, other, atol=1e-4).all(dim=1).any()  # no row


def test_the_curve_is_that_of_a_run_from_a_cache_in_fp32(
    samples: ShardSet, teacher: Path, tmp_path: Path
) -> None:
    caches = open_teachers(RECIPE, samples, [teacher], tmp_path / "cache", storage="fp32")
    train(RECIPE, samples, tmp_path / "cached", caches=caches, teachers=[teacher])
    train(
        RECIPE,
        samples,
        tmp_path / "asked",
        caches=ask_at_each_step(RECIPE, samples, [teacher]),
        teachers=[teacher],
    )
    cached, asked = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("cached", "asked"))
    for name in ("loss", "task", "crd", "fd", "icl", "teacher_cosine"):
        assert [row[name] for row in asked] == pytest.approx([row[name] for row in cached], rel=1e-5)


def test_an_image_is_decoded_again_only_for_a_teacher_of_another_size(
    samples: ShardSet, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked,) = ask_at_each_step(RECIPE, samples, [teacher])
    batch, decoded = batch_of(samples, RECIPE), []
    read = teacher_in_loop.read_pixels

    def counted(*arguments: object) -> object:
        decoded.append(arguments)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_in_loop, "read_pixels", counted)
    asked.of_batch(batch, CPU)
    size = read_checkpoint_architecture(teacher).vision_cfg.image_size
    assert len(decoded) == {32: 0, 48: 3}[size]
    # what is scaled for the student is exact for the teacher
    (asked,) = ask_at_each_step(
        read_recipe("demo-clip-kd", [*TOY, "views.decode='scaled'"]), samples, [teacher]
    )
    decoded.clear()
    asked.of_batch(batch, CPU)
    assert len(decoded) == 3


def test_a_run_with_the_teacher_online_leaves_no_cache(
    samples: ShardSet, teacher: Path, tmp_path: Path
) -> None:
    recipe = read_recipe("demo-clip-kd", [*TOY, "steps=2"])
    result = run_recipe(recipe, samples.folder, tmp_path / "run", teachers=[teacher], teacher_online=True)
    assert result.path.is_dir() and not (tmp_path / "run.cache").exists() and result.cache_reused is False


def test_what_does_not_go_with_an_online_teacher_is_refused_before_work(
    samples: ShardSet, tmp_path: Path, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(UsageError, match="no use beside"):
        run_recipe(
            RECIPE,
            samples.folder,
            tmp_path / "run",
            teachers=[mini_checkpoint],
            cache=tmp_path / "cache",
            teacher_online=True,
        )
    with pytest.raises(UsageError, match="does not distil"):
        run_recipe(read_recipe("demo-baseline", TOY), samples.folder, tmp_path / "run", teacher_online=True)
