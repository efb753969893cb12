"""Facts of distill/plan.py: numbers are worked by hand from the counts of tests/models/test_flops.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.distill import read_recipe
from kdx.distill.plan import plan_run
from kdx.distill.schedule import Schedule
from kdx.models.architectures import read_architecture
from kdx.models.flops import count_flops

MakeSamples = Callable[..., list[Sample]]
CC = 12_860_000


@pytest.fixture
def samples(tmp_path: Path, make_samples: MakeSamples) -> ShardSet:
    write_shards(tmp_path / "data", "train", make_samples(20))
    return open_split(tmp_path / "data", "train")


def test_the_plan_of_a_published_run() -> None:
    plan = plan_run(read_recipe("clip-kd/vit-t-16-from-laion-vit-l-14"))
    assert (plan.student.name, plan.student.total_params) == ("ViT-T-16", 46_116_097)
    assert [(t.name, t.total_params, t.embed_dim) for t in plan.teachers] == [("ViT-L-14", 427_616_513, 768)]
    assert plan.schedule == Schedule(401_888, 1024, 10_000)
    assert plan.pairs_seen == 401_888 * 1024 and plan.pairs_from == "published"
    assert plan.epochs == pytest.approx(32, abs=0.01)
    assert (plan.text_length, plan.text_length_from) == (77, "context")
    assert plan.objective_params == 2 * (512 * 768 + 768) + 1  # two projections and ICL's scale
    assert plan.step_flops == pytest.approx(1024 * 3 * (2.507 + 3.380) * 1e9, rel=1e-3)
    assert plan.step_flops and plan.training_flops == 401_888 * plan.step_flops
    assert plan.cache_flops == pytest.approx(CC * (4 * 162.03 + 13.30) * 1e9, rel=1e-3)
    files = {file.path: file.bytes for file in plan.files}
    assert files["OUT.cache"] == CC * (2 * 768 * (4 + 1) + 8)
    assert files["OUT/student/model.safetensors"] == 4 * 46_116_097
    assert files["OUT/objective.safetensors"] == 4 * (plan.objective_params or 0)


def test_a_baseline_has_no_teacher_no_cache_and_nothing_of_an_objective() -> None:
    plan = plan_run(read_recipe("clip-kd/resnet-18"), out=Path("runs/one"))
    assert (plan.teachers, plan.cache_flops, plan.objective_params) == ((), 0, 0)
    paths = [file.path for file in plan.files]
    assert "runs/one/student/model.safetensors" in paths
    assert not [path for path in paths if "objective" in path or "cache" in path]


def test_an_online_teacher_makes_no_cache_and_costs_its_forward_pass_at_each_step() -> None:
    recipe = read_recipe("clip-kd/vit-t-16-from-laion-vit-l-14")
    cached, online = plan_run(recipe), plan_run(recipe, teacher_online=True)
    assert cached.step_flops and online.step_flops
    assert online.step_flops - cached.step_flops == pytest.approx(1024 * (162.03 + 13.30) * 1e9, rel=1e-3)
    assert online.cache_flops == 0 and not [file for file in online.files if "cache" in file.path]


def test_mfd_pays_for_the_masked_image_too() -> None:
    plain, masked = (plan_run(read_recipe(f"clip-kd/vit-t-16-from-vit-b-16-{m}")) for m in ("fd", "mfd"))
    more = 3 * 1024 * count_flops(read_architecture("ViT-T-16"), mask_ratio=0.75).masked_image
    assert plain.step_flops and masked.step_flops == plain.step_flops + more


def test_locked_towers_cost_a_forward_pass_and_checkpointing_one_more(mini_checkpoint: Path) -> None:
    flops = count_flops(read_architecture("kdx-mini"))
    lock = [f"inherit.source='{mini_checkpoint}'", "model.lock_text=true"]
    assert plan_run(read_recipe("demo-baseline", lock)).step_flops == 128 * (3 * flops.image + flops.text)
    flops = count_flops(read_architecture("kdx-mini-vit"))
    again = ["student=kdx-mini-vit", "model.grad_checkpointing=true"]
    assert plan_run(read_recipe("demo-baseline", again)).step_flops == 128 * 4 * (flops.image + flops.text)


def test_data_tells_epochs_and_the_size_of_the_cache(samples: ShardSet, tmp_path: Path) -> None:
    recipe = read_recipe("demo-clip-kd", ["batch_size=8"])
    plan = plan_run(recipe, samples=samples, out=tmp_path / "run")
    assert (plan.pairs, plan.pairs_from, plan.epochs) == (20, "data", 450 / 2)  # the third batch is not whole
    *_, cache = plan.files
    assert cache.path == str(tmp_path / "run.cache") and not cache.exists
    assert cache.bytes == 20 * (2 * 64 * (2 + 1) + 8)  # two bytes a number; two views, one text
    with pytest.raises(UsageError) as caught:
        plan_run(read_recipe("demo-clip-kd", ["batch_size=21"]), samples=samples)
    assert {"21", "20"} <= set(caught.value.what.split())


def test_a_recipe_in_epochs_is_planned_once_the_data_is_known(samples: ShardSet) -> None:
    recipe = read_recipe("small-baseline", ["student=kdx-mini"])
    plan = plan_run(recipe)
    assert (plan.schedule, plan.pairs_seen, plan.step_flops, plan.training_flops) == (None, None, None, None)
    assert plan.epochs == 50
    plan = plan_run(recipe, samples=samples)
    assert plan.schedule == Schedule(50, 16, 5) and plan.pairs_seen == 800 and plan.epochs == 50


@pytest.mark.parametrize(("batch_size", "length"), [(2, 5), (200, 10)])
def test_texts_are_as_long_as_the_longest_of_a_batch_in_the_mean(
    tmp_path: Path, make_samples: MakeSamples, batch_size: int, length: int
) -> None:
    """Of two draws the long text is one with 1 - 0.9^2 = 0.19: 0.19 * 10 + 0.81 * 3 = 4.33, rounded up."""
    captions = [("cat",)] * 180 + [
        ("cat cat cat cat cat cat cat cat",)
    ] * 20  # 3 and 10 tokens with start and end
    write_shards(tmp_path / "data", "train", make_samples(200, captions))
    samples = open_split(tmp_path / "data", "train")
    plan = plan_run(read_recipe("demo-baseline", [f"batch_size={batch_size}"]), samples=samples)
    assert (plan.text_length, plan.text_length_from) == (length, "data")
    assert plan.student.text_flops == count_flops(read_architecture("kdx-mini"), length).text


def test_each_teacher_reads_texts_of_its_own_length(samples: ShardSet) -> None:
    """SigLIP 2's are always 64 tokens long, CLIP's as long as the data's."""
    settings = ['teacher=["ViT-B-16-SigLIP2", "kdx-mini-teacher"]', "batch_size=8"]
    plan = plan_run(read_recipe("demo-clip-kd", settings), samples=samples)
    lengths = 64, plan.text_length
    assert plan.text_length < 32
    for teacher, length in zip(plan.teachers, lengths, strict=True):
        assert teacher.text_flops == count_flops(read_architecture(teacher.name), length).text


def test_given_teachers_stand_for_the_named_one(mini_checkpoint: Path) -> None:
    plan = plan_run(read_recipe("demo-clip-kd"), teachers=[mini_checkpoint, mini_checkpoint])
    assert [teacher.name for teacher in plan.teachers] == ["kdx-mini", "kdx-mini"]
    assert plan.cache_flops is None and plan.objective_params == 2
    assert [file.path for file in plan.files][-2:] == ["OUT.cache", "OUT.cache.2"]
    with pytest.raises(UsageError) as caught:
        plan_run(read_recipe("demo-baseline"), teachers=[mini_checkpoint])
    assert "--teacher" in str(caught.value.remedy)


def test_an_ensembles_recipe_is_planned_with_as_many_teachers_as_it_has_scales(mini_checkpoint: Path) -> None:
    recipe = read_recipe("demo-clip-kd", ["objective.teacher_scale=[50,70]"])
    assert len(plan_run(recipe).teachers) == 2
    assert len(plan_run(recipe, teachers=[mini_checkpoint] * 2).teachers) == 2
    with pytest.raises(UsageError, match="2 numbers for 1 teacher"):
        plan_run(recipe, teachers=[mini_checkpoint])


def test_what_depends_on_an_unknown_teacher_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "demo-baseline"\n[objective]\nfd = 3.0\n')
    plan = plan_run(read_recipe(str(path)))
    assert (plan.teachers, plan.objective_params, plan.cache_flops) == ((), None, None)
    assert plan.epochs is None and plan.files[-1].bytes is None
