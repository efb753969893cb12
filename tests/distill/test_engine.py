"""Facts of distill/engine.py and distill/teacher_cache.py at toy size."""

import dataclasses
import errno
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

import kdx
from kdx.core.encoder import EncoderSpec, IntArray
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import open_sealed, read_manifest
from kdx.core.log import read_metrics
from kdx.core.preprocess import normalize
from kdx.core.tokenizers import Tokenizer
from kdx.data.loader import Batch
from kdx.data.pixels import read_pixels
from kdx.data.sample import key_digest
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import choose_view
from kdx.distill import Recipe, engine, loop, open_teachers, read_recipe, train
from kdx.distill.objective import INITIAL_LOG_SCALE
from kdx.distill.teacher_cache import TeacherCache, open_cache
from kdx.distill.teacher_cache.storage import read_shard
from kdx.models.checkpoint import open_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer
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
    assert read_recipe(str(tmp_path / "run" / "recipe.toml")) == _recipe("demo-baseline", "precision=fp32")
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["step"] == 6 and line["loss"] == pytest.approx(line["task"]) == pytest.approx(
        result.final_loss
    )
    assert open_checkpoint(tmp_path / "run").path == result.student


def test_precision_parts_blocks_and_average_make_nearly_the_same_loss_and_are_in_the_recipe(
    tmp_path: Path, samples: ShardSet
) -> None:
    settings = ("student=kdx-mini-vit", "steps=4")
    plain = train(_recipe("demo-baseline", *settings), samples, tmp_path / "plain")
    more = ("precision=bf16", "accumulate=2", "text_blocks=3", "ema=0.5")
    other = train(_recipe("demo-baseline", *settings, *more), samples, tmp_path / "other")
    assert other.final_loss != plain.final_loss
    assert other.final_loss == pytest.approx(plain.final_loss, rel=0.02)
    kept = read_recipe(str(tmp_path / "other" / "recipe.toml"))
    assert (kept.precision, kept.accumulate, kept.text_blocks, kept.ema) == ("bf16", 2, 3, 0.5)


def test_a_student_of_several_widths_says_so_and_its_first_dimensions_are_given(
    tmp_path: Path, samples: ShardSet
) -> None:
    train(_recipe("demo-baseline", "objective.dims=[8,32,64]"), samples, tmp_path / "run")
    assert read_recipe(str(tmp_path / "run/recipe.toml")).objective.dims == (8, 32, 64)
    with kdx.load(tmp_path / "run") as student:
        assert student.spec.matryoshka_dims == (8, 32, 64)
        whole, first = (student.embed_texts(["a dog", "two"], dimensions=dims) for dims in (None, 8))
    norms = np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(first, whole[:, :8] / norms, atol=1e-6)


def test_the_whole_width_alone_trains_as_without_widths_bit_for_bit(
    tmp_path: Path, samples: ShardSet
) -> None:
    train(_recipe(), samples, tmp_path / "plain")
    train(_recipe("demo-baseline", "objective.dims=[64]"), samples, tmp_path / "whole")
    plain, whole = (_weights(tmp_path / name) for name in ("plain", "whole"))
    assert all(torch.equal(value, whole[name]) for name, value in plain.items())
    assert "matryoshka_dims" not in (tmp_path / "whole/student/config.json").read_text()


def test_parts_of_fewer_than_two_pairs_are_refused(tmp_path: Path, samples: ShardSet) -> None:
    with pytest.raises(UsageError) as refused:
        train(_recipe("demo-baseline", "accumulate=5"), samples, tmp_path / "run")
    assert "accumulate=4" in str(refused.value.remedy)


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
    (cached,) = open_teachers(recipe, samples, [tmp_path / "teacher"], tmp_path / "cache")
    assert not cached.reused
    assert [shard.image.shape for shard in cached.shards] == [(12, 2, 64), (8, 2, 64)]
    assert [shard.text.shape for shard in cached.shards] == [(12, 1, 64), (8, 1, 64)]
    with TorchEncoder.open(tmp_path / "teacher") as teacher:
        row, view = 13, 1
        sample = samples[row]
        key = key_digest(sample.key)
        choose = functools.partial(choose_view, recipe.views, key, view)
        pixels = read_pixels(sample.image, teacher.preprocess, choose)
        image = teacher.encode_image(normalize(pixels[None], teacher.spec.mean, teacher.spec.std))[0]
        text = teacher.embed_texts(sample.captions)[0]
    said = cached.embeddings(np.array([3, row]), np.array([0, view]), np.array([0, 0]), torch.device("cpu"))
    assert np.abs(said.image[1].numpy() - image).max() < 1e-3  # fp16
    assert np.abs(said.text[1].numpy() - text).max() < 1e-3


def test_a_cache_is_read_from_the_disk_as_it_is_asked_for(tmp_path: Path) -> None:
    image = np.ones((4_000, 2, 1_024), dtype=np.float16)  # 16 MiB
    keys = np.arange(4_000, dtype=np.uint64)
    table = {"image": image, "text": image[:, :1].copy(), "key": keys}
    save_file(table, tmp_path / "train-00000.safetensors")
    shard = read_shard(tmp_path / "train-00000.safetensors", keys, 2, 1_024, "")
    cache = TeacherCache((shard, shard), 1.0, None, reused=True)
    rows = np.array([7_999, 5])
    said = cache.embeddings(rows, np.array([1, 0]), np.array([0, 0]), torch.device("cpu"))
    assert said.image.shape == (2, 1_024)
    mapped = Path("/proc/self/smaps").read_text().split("train-00000.safetensors\n")
    resident = [int(after.split("Rss:")[1].split()[0]) for after in mapped[1:]]  # KiB
    assert resident and sum(resident) < 4_096


def test_distilling_moves_the_student_towards_the_teacher(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    recipe = _recipe("demo-clip-kd", "steps=60", "batch_size=20")
    caches = open_teachers(recipe, samples, [tmp_path / "teacher"], tmp_path / "cache")
    train(recipe, samples, tmp_path / "run", caches=caches)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["teacher_cosine"] > 0.8 > lines[0]["teacher_cosine"]
    assert {"task", "crd", "fd", "icl"} <= lines[-1].keys()


def test_a_cache_is_reused_only_for_the_same_teacher_views_and_data(
    tmp_path: Path, samples: ShardSet
) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    recipe, teacher, cache = _recipe("demo-clip-kd"), tmp_path / "teacher", tmp_path / "cache"
    open_teachers(recipe, samples, [teacher], cache)
    (again,) = open_teachers(recipe, samples, [teacher], cache)
    assert again.reused
    with pytest.raises(UsageError) as refused:
        open_teachers(_recipe("demo-clip-kd", "views.seed=1"), samples, [teacher], cache)
    assert refused.value.where == str(cache)
    file = next(cache.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError) as changed:
        open_teachers(recipe, samples, [teacher], cache)
    assert changed.value.where == str(file)


@pytest.mark.parametrize("what", ["a folder", "a checkpoint", "a file"])
def test_what_is_no_cache_is_refused_and_left_alone(tmp_path: Path, samples: ShardSet, what: str) -> None:
    cache, teacher = tmp_path / "cache", tmp_path / "teacher"
    train(_recipe("demo-teacher"), samples, teacher)
    if what == "a folder":
        cache.mkdir()
    elif what == "a file":
        cache.write_text("dear")
    else:
        cache = teacher / "student"
    with pytest.raises(UsageError) as caught:
        open_teachers(_recipe("demo-clip-kd"), samples, [teacher], cache)
    assert caught.value.where == str(cache) and "--cache" in str(caught.value.remedy)
    open_checkpoint(teacher)


def test_what_cannot_train_is_said_before_the_teacher_is_asked(tmp_path: Path, samples: ShardSet) -> None:
    """The teachers are not even opened: there are none."""
    teacher = tmp_path / "teacher"
    with pytest.raises(UsageError) as too_few:
        open_teachers(_recipe("demo-clip-kd", "batch_size=21"), samples, [teacher], tmp_path / "cache")
    assert {"21", "20"} <= set(too_few.value.what.split())


def test_a_teacher_is_asked_for_exactly_when_the_objective_needs_one(
    tmp_path: Path, samples: ShardSet
) -> None:
    with pytest.raises(UsageError) as missing:
        open_teachers(_recipe("demo-clip-kd"), samples, [], tmp_path / "cache")
    assert "--teacher" in str(missing.value.remedy)
    with pytest.raises(UsageError) as unused:
        open_teachers(_recipe(), samples, [tmp_path / "teacher"], tmp_path / "cache")
    assert "leave --teacher out" in str(unused.value.remedy)


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_no_run(
    tmp_path: Path, samples: ShardSet
) -> None:
    with pytest.raises(UsageError) as stopped:
        train(_recipe("demo-baseline", "optimizer.lr=1e30", "steps=50"), samples, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert str(tmp_path / "run.stopped") in str(stopped.value.remedy)


def test_the_last_good_student_is_kept_when_a_loss_is_not_finite(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are read at every third step, and then a copy of the weights is kept."""
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    monkeypatch.setattr(loop, "KEEP_EVERY", 3)
    step = loop.Loop.step

    def fail_at_four(self: loop.Loop, batch: Batch, pixels: torch.Tensor) -> object:
        if batch.step == 4:
            with torch.no_grad():
                self.state.model.logit_scale.fill_(float("nan"))
        return step(self, batch, pixels)

    monkeypatch.setattr(loop.Loop, "step", fail_at_four)
    recipe = _recipe("demo-baseline", "steps=8")
    with pytest.raises(UsageError) as stopped:
        train(recipe, samples, tmp_path / "run")
    assert "step 5" in stopped.value.what and "task" in stopped.value.what
    assert "after 2 steps" in str(stopped.value.remedy)
    kept = _weights(tmp_path / "run.stopped")
    assert all(torch.isfinite(value).all() for value in kept.values())
    monkeypatch.setattr(loop.Loop, "step", step)
    seen: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        loop.Loop,
        "step",
        lambda self, *a: (seen.append(loop._copied(self.state.model.state_dict())), step(self, *a))[1],
    )
    train(recipe, samples, tmp_path / "again")
    learnt = [name for name, _ in open_checkpoint(tmp_path / "again").model.named_parameters()]
    assert all(torch.equal(kept[name], seen[2][name]) for name in learnt)


def test_every_method_trains_a_vit_and_its_objective_is_kept(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe("demo-teacher"), samples, tmp_path / "teacher")
    weights = [
        f"objective.{name}=1" for name in ("crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity")
    ]
    recipe = _recipe("demo-baseline", "student=kdx-mini-vit", *weights)
    caches = open_teachers(recipe, samples, [tmp_path / "teacher"], tmp_path / "cache")
    train(recipe, samples, tmp_path / "run", caches=caches)
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"task", "crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity"} <= line.keys()
    learnt = load_file(tmp_path / "run" / "objective.safetensors")
    assert {
        "bridges.0.icl_logit_scale",
        "bridges.0.afd_logit_scale",
        "bridges.0.fuse_text.bias",
    } <= learnt.keys()
    assert learnt["bridges.0.icl_logit_scale"] != INITIAL_LOG_SCALE


def test_a_sigmoid_student_has_a_bias_that_learns(tmp_path: Path, samples: ShardSet) -> None:
    recipe = _recipe("demo-baseline", "objective.contrast='sigmoid'")
    train(recipe, samples, tmp_path / "teacher")
    spec = open_checkpoint(tmp_path / "teacher").spec
    assert spec.logit_bias != -10 and spec.logit_bias == pytest.approx(-10, abs=0.1)
    distilled = _recipe("demo-baseline", "objective.contrast='sigmoid'", "objective.crd=1")
    caches = open_teachers(distilled, samples, [tmp_path / "teacher"], tmp_path / "cache")
    train(distilled, samples, tmp_path / "run", caches=caches)
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["crd"] > 0


def test_an_ensemble_has_a_cache_for_each_teacher(tmp_path: Path, samples: ShardSet) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        train(_recipe("demo-teacher", f"seed={seed}"), samples, tmp_path / name)
    recipe = _recipe("demo-clip-kd")
    teachers = [tmp_path / "one", tmp_path / "two"]
    caches = open_teachers(recipe, samples, teachers, tmp_path / "run.cache")
    assert len(caches) == 2 and not torch.equal(caches[0].shards[0].image, caches[1].shards[0].image)
    assert (tmp_path / "run.cache").is_dir() and (tmp_path / "run.cache.2").is_dir()
    train(recipe, samples, tmp_path / "run", caches=caches, teachers=teachers)
    assert {"bridges.0.icl_logit_scale", "bridges.1.icl_logit_scale"} <= load_file(
        tmp_path / "run" / "objective.safetensors"
    ).keys()


class _Foreign:
    """A teacher of another width and resolution that sums tokens."""

    precision = "fp32"

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self.preprocess = spec.preprocess()
        self.tokenizer: Tokenizer = clip_tokenizer()
        self.seen: list[tuple[int, ...]] = []

    def embed_pixels(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        self.seen.append(pixels.shape[1:])
        return self._rows(pixels.mean(axis=(1, 2, 3)) / 128)

    def embed_tokens(self, tokens: IntArray) -> torch.Tensor:
        return self._rows(tokens.sum(axis=1))

    def _rows(self, numbers: npt.NDArray[Any]) -> torch.Tensor:
        rows = torch.cos(torch.from_numpy(numbers)[:, None] * torch.arange(1, 4))
        return torch.nn.functional.normalize(rows.float(), dim=-1)


def test_a_teacher_sees_through_its_own_resolution_and_tokenizer(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe(), samples, tmp_path / "any")
    spec = dataclasses.replace(open_checkpoint(tmp_path / "any").spec, embed_dim=3, image_size=48)
    teacher, recipe = _Foreign(spec), _recipe("demo-clip-kd")
    cache = open_cache(tmp_path / "cache", teacher, samples, recipe.views, max_bad_share=0)
    assert set(teacher.seen) == {(48, 48, 3)}
    expected = teacher.embed_tokens(samples.tokens(7, 0, spec.context_length)[None].astype(np.int64))[0]
    assert (cache.shards[0].text[7, 0] - expected).abs().max() < 1e-3
    train(recipe, samples, tmp_path / "run", caches=[cache])
    learnt = load_file(tmp_path / "run" / "objective.safetensors")
    assert learnt["bridges.0.project_image.weight"].shape == (3, 64)


def test_corrupt_images_are_listed_in_the_run(tmp_path: Path, make_samples: MakeSamples) -> None:
    good = make_samples(20)
    broken = Sample(key="broken", image=good[0].image[:60], captions=("x",), label=None)
    write_shards(tmp_path / "data", "train", [*good, broken])
    samples = open_split(tmp_path / "data", "train")
    result = train(_recipe("demo-baseline", "max_bad_share=0.1"), samples, tmp_path / "run")
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert result.bad_images == 1 and json.loads(line)["key"] == "broken"


def test_a_run_and_its_cache_tell_where_they_came_from_and_what_they_reached(
    tmp_path: Path, samples: ShardSet
) -> None:
    teacher = tmp_path / "teacher"
    train(_recipe("demo-baseline"), samples, teacher)  # a kdx-mini, where the recipe names kdx-mini-teacher
    digest = open_checkpoint(teacher).spec.model_digest
    recipe = _recipe("demo-clip-kd")
    caches = open_teachers(recipe, samples, [teacher], tmp_path / "cache")
    result = train(recipe, samples, tmp_path / "run", caches=caches, teachers=[teacher])
    manifest = read_manifest(tmp_path / "run")
    told = manifest.fields
    assert told["teachers"] == [{"name": "kdx-mini", "path": str(teacher), "digest": digest}]
    assert told["data"] == {"path": str(samples.folder), "pairs": 20, "digest": samples.digest}
    assert manifest.provenance["inputs"] == {"teacher": digest, "data": samples.digest}
    assert (told["student"], told["methods"]) == ("kdx-mini", ["crd", "fd", "icl"])
    assert (told["steps"], told["batch_size"], told["epochs"], told["bad_images"]) == (6, 8, 3, 0)
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert (
        told["final"] == {name: line[name] for name in told["final"]}
        and told["final"]["loss"] == line["loss"]
    )
    assert 0 < told["seconds"] <= result.seconds and told["device"] and told["processes"] == 1
    kept = (tmp_path / "run" / "recipe.toml").read_text()
    assert (
        digest in kept.splitlines()[0]
        and read_recipe(str(tmp_path / "run" / "recipe.toml")).teacher == "kdx-mini"
    )
    other = _recipe("demo-clip-kd", 'teacher="RN50"', 'teacher_source="RN50:openai"')
    train(other, samples, tmp_path / "other", caches=caches, teachers=[teacher])
    kept = read_recipe(str(tmp_path / "other" / "recipe.toml"))
    assert (kept.teacher, kept.teacher_source) == ("kdx-mini", None)
    cached = read_manifest(tmp_path / "cache").fields
    assert cached["teacher"] == told["teachers"][0] and cached["data"] == told["data"]
    assert (cached["views"], cached["captions"], cached["bad_images"]) == (2, 20, 0) and cached["seconds"] > 0


def test_a_student_that_cannot_be_saved_is_found_before_the_first_step(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    monkeypatch.setattr(loop.Loop, "step", lambda self, *a: steps.append(a))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("some tensors share memory")

    monkeypatch.setattr(engine, "save_checkpoint", refuse)
    with pytest.raises(RuntimeError):
        train(_recipe(), samples, tmp_path / "run")
    assert steps == [] and [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_a_run_that_cannot_be_sealed_leaves_its_student(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    train(_recipe(), samples, tmp_path / "whole")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(engine, "_write_skipped", fail)
    with pytest.raises(BaseException) as stopped:
        train(_recipe(), samples, tmp_path / "run")
    if isinstance(fault, OSError):
        assert isinstance(stopped.value, SetupError) and str(tmp_path / "run.stopped") in str(
            stopped.value.remedy
        )
    else:
        assert stopped.value is fault
    assert not (tmp_path / "run").exists()
    kept, whole = _weights(tmp_path / "run.stopped"), _weights(tmp_path / "whole")
    assert all(torch.equal(kept[name], whole[name]) for name in whole)


def test_what_cannot_be_kept_beside_the_run_is_kept_in_the_temporary_folder(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "run.stopped").write_text("dear")
    step = loop.Loop.step

    def fail_at_three(self: loop.Loop, batch: Batch, pixels: torch.Tensor) -> object:
        if batch.step == 3:
            raise DataError("a shard was taken away")
        return step(self, batch, pixels)

    monkeypatch.setattr(loop.Loop, "step", fail_at_three)
    with pytest.raises(DataError) as stopped:
        train(_recipe(), samples, tmp_path / "run")
    place = tmp_path / "elsewhere" / "run.stopped"
    assert f"3 steps is {place}" in str(stopped.value.remedy)
    open_checkpoint(place)
    assert (tmp_path / "run.stopped").read_text() == "dear"
