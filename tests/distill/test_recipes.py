"""Facts of the shipped recipes, CLIP-KD's and the examples: their numbers, that each trains, no repetition."""

import functools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from kdx.core.config import merge
from kdx.core.errors import UsageError
from kdx.data.loader import Batch
from kdx.distill import Objective, recipe as recipes
from kdx.distill.devices import Device
from kdx.distill.loop import Loop
from kdx.distill.objective_config import ObjectiveConfig
from kdx.distill.optimizer import build_optimizer
from kdx.distill.ranks import ALONE
from kdx.distill.recipe import read_recipe, recipe_names
from kdx.distill.run_state import RunState
from kdx.distill.student import build_student, check_student
from kdx.distill.teacher_cache import CachedShard, TeacherCache
from kdx.models.architectures import Architecture, build_model, count_parameters, read_architecture

FOLDER = Path(recipes.__file__).parent / "recipes"

# From the README of winycg/CLIP-KD: ImageNet top-1 of the student trained alone, and by its teachers.
BASELINES = {
    "ViT-T-16": 30.55,
    "MobileViT-S": 32.60,
    "MobileViT-XXS": None,  # a script, but no score
    "Swin-T": 36.38,
    "MobileNetV3-S": 25.11,
    "EfficientNet-B0": 32.55,
    "ResNet-18": 28.55,
    "ViT-B-16": 36.99,
    "RN101": 36.76,
    "RN50": 35.3,
}
TEACHERS = {  # name in recipes → architecture, data, ImageNet top-1, width of the embedding
    "vit-b-16": ("ViT-B-16", "CC3M + CC12M", 36.99, 512),
    "rn101": ("RN101", "CC3M + CC12M", 36.76, 512),
    "laion-vit-b-16": ("ViT-B-16", "LAION-400M", 67.1, 512),
    "laion-vit-l-14": ("ViT-L-14", "LAION-400M", 72.8, 768),
}
PAIRS = {
    ("ViT-T-16", "vit-b-16"): 34.90,
    ("MobileViT-S", "vit-b-16"): 35.96,
    ("MobileViT-XXS", "vit-b-16"): None,
    ("Swin-T", "vit-b-16"): 40.18,
    ("MobileNetV3-S", "vit-b-16"): 26.95,
    ("EfficientNet-B0", "vit-b-16"): 35.44,
    ("ResNet-18", "vit-b-16"): 31.36,
    ("MobileViT-S", "rn101"): 34.97,
    ("Swin-T", "rn101"): 39.51,
    ("MobileNetV3-S", "rn101"): 26.15,
    ("EfficientNet-B0", "rn101"): 34.64,
    ("ResNet-18", "rn101"): 30.88,
    ("ViT-B-16", "laion-vit-l-14"): 57.5,
    ("ViT-T-16", "laion-vit-l-14"): 40.9,
    ("ViT-T-16", "laion-vit-b-16"): 42.6,
    ("RN50", "laion-vit-b-16"): 55.4,
}
METHODS: dict[str, tuple[float, dict[str, Any]]] = {  # ViT-T/16 from ViT-B/16
    "crd": (31.94, {"crd": 0.5}),
    "fd": (34.23, {"fd": 2000 / 512}),
    "mfd": (34.09, {"mfd": 2000 / 512, "mask_ratio": 0.75}),
    "gd": (31.54, {"gd": 1e8, "compat": "clip-kd"}),
    "icl": (33.11, {"icl": 1.0}),
    "afd": (31.42, {"afd": 1.0}),
}


def _name(student: str, *parts: str) -> str:
    return "-".join((f"clip-kd/{student.lower()}", *parts))


# recipe → student, teacher's name in recipes, ImageNet top-1, objective beside the task loss
EXPECTED: dict[str, tuple[str, str | None, float | None, dict[str, Any]]] = {
    **{_name(student): (student, None, score, {}) for student, score in BASELINES.items()},
    **{
        _name(student, "from", teacher): (
            student,
            teacher,
            score,
            {"crd": 0.5, "icl": 1.0, "fd": pytest.approx(2000 / TEACHERS[teacher][3], rel=1e-6)},
        )
        for (student, teacher), score in PAIRS.items()
    },
    **{
        _name("ViT-T-16", "from-vit-b-16", method): ("ViT-T-16", "vit-b-16", score, weights)
        for method, (score, weights) in METHODS.items()
    },
}


SET_BY_A_TEACHER = ("about", "teacher", "teacher_source", "objective", "published")
EXAMPLES = {  # student, teachers and how these are fetched; no score was published
    **{
        f"siglip2-b-16-to-{student.lower()}": (student, ["ViT-B-16-SigLIP2"], ["ViT-B-16-SigLIP2:webli"])
        for student in ("ViT-T-16", "MobileViT-S", "MobileNetV3-S", "EfficientNet-B0", "ResNet-18")
    },
    "dfn-ensemble-to-mobileclip2-s0": (
        "MobileCLIP2-S0",
        ["ViT-L-14-quickgelu", "ViT-L-14"],
        ["ViT-L-14-quickgelu:dfn2b", "ViT-L-14:dfn2b_s39b"],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_that_no_score_is_known_and_how_its_teachers_are_fetched(name: str) -> None:
    student, teachers, sources = EXAMPLES[name]
    recipe = read_recipe(name)
    assert recipe.student == student and list(recipe.teacher_names) == teachers
    assert recipe.published is None and "score nobody has published or measured" in recipe.about
    commands = list(recipe.teacher_imports.items())
    assert [command.split()[2] for _, command in commands] == sources
    assert all(command.endswith(f"--out {place}") for place, command in commands)
    for source in sources:
        model, tag = source.split(":")
        assert open_clip.get_pretrained_cfg(model, tag), source
    with pytest.raises(UsageError) as missing:
        check_student(recipe, ())
    assert missing.value.remedy and all(command in missing.value.remedy for _, command in commands)


def test_siglip_2s_recipes_have_the_published_strength_for_its_width() -> None:
    objective = read_recipe("siglip2-b-16-to-vit-t-16").objective
    assert (objective.task, objective.crd, objective.icl) == (1, 0.5, 1)
    assert objective.fd == pytest.approx(2000 / read_architecture("ViT-B-16-SigLIP2").embed_dim, rel=1e-6)
    for name in EXAMPLES:
        if name.startswith("siglip2") and "vit" not in name:
            assert read_recipe(name).optimizer == read_recipe("clip-kd/resnet-18").optimizer.model_copy(
                update={"warmup_steps": None}
            )


def test_mobileclip_2s_recipe_has_its_scripts_numbers() -> None:
    """training/configs/run_dfndr12m.sh of apple/ml-mobileclip."""
    recipe = read_recipe("dfn-ensemble-to-mobileclip2-s0")
    assert recipe.objective.terms == ("affinity",) and recipe.objective.affinity == 1
    assert recipe.objective.teacher_scale == (70, 60)
    optimizer = recipe.optimizer
    assert (recipe.batch_size, recipe.steps, optimizer.warmup_steps) == (8192, 30_000, 1000)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas[1]) == (1e-3, 0.2, 0.95)
    assert optimizer.clip_grad_norm == 1 and recipe.views.scale == (0.08, 1.0)


def test_there_is_a_recipe_for_every_published_run_and_no_other() -> None:
    assert {name for name in recipe_names() if "/" in name} == set(EXPECTED)
    assert len(EXPECTED) == 32


@pytest.mark.parametrize("name", EXPECTED)
def test_student_teacher_objective_and_score_are_the_published_ones(name: str) -> None:
    student, teacher, score, objective = EXPECTED[name]
    recipe = read_recipe(name)
    assert recipe.student == student
    plain = ObjectiveConfig().model_dump()
    assert recipe.objective.task == 1
    assert {k: v for k, v in recipe.objective.model_dump().items() if v != plain[k]} == {
        k: v for k, v in objective.items() if v != plain[k]
    }
    published = recipe.published
    assert published is not None and published.imagenet_top1 == score
    assert "CLIP-KD" in published.source and published.train_data == "CC3M + CC12M"
    if teacher is None:
        assert recipe.teacher is None and published.teacher_imagenet_top1 is None
    else:
        found = (recipe.teacher, published.teacher_data, published.teacher_imagenet_top1)
        assert found == TEACHERS[teacher][:3]
        (name,) = recipe.teacher_names
        assert read_architecture(name).embed_dim == TEACHERS[teacher][3]


@pytest.mark.parametrize("name", EXPECTED)
def test_hyper_parameters_are_the_published_ones(name: str) -> None:
    recipe = read_recipe(name)
    optimizer = recipe.optimizer
    assert recipe.batch_size == 8 * 128 and recipe.steps == 32 * 12_559
    assert isinstance(recipe.batch_size, int)
    assert recipe.published and recipe.published.train_pairs == 12_860_000
    assert recipe.steps * recipe.batch_size / recipe.published.train_pairs == pytest.approx(32, abs=0.01)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.warmup_steps) == (1e-3, 0.1, 10_000)
    vit = "vit" in recipe.student.lower()  # MobileViT too
    assert (*optimizer.betas, optimizer.eps) == ((0.9, 0.98, 1e-6) if vit else (0.9, 0.999, 1e-8))
    assert optimizer.clip_grad_norm is None
    assert recipe.views.scale == (0.9, 1.0) and not recipe.views.flip
    schedule = recipe.schedule()
    assert schedule is not None and schedule.learning_rate(optimizer.lr, 0) == pytest.approx(1e-7)


@pytest.mark.parametrize("student", BASELINES)
def test_a_distilled_run_differs_from_its_baseline_in_teacher_and_objective_alone(student: str) -> None:
    baseline = read_recipe(_name(student))
    same = {key: getattr(baseline, key) for key in SET_BY_A_TEACHER}
    for name in recipe_names():
        if name.startswith(f"{_name(student)}-from-"):
            assert read_recipe(name).model_copy(update=same) == baseline


@functools.cache
def _parameters(student: str) -> int:
    with torch.device("meta"):
        model, _ = build_student(read_recipe(_name(student)), ())
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("student", BASELINES)
def test_the_student_is_built_at_its_full_size(student: str) -> None:
    """On torch's meta device, which allocates nothing."""
    assert _parameters(student) == count_parameters(read_architecture(student)).total_params


def _toy(architecture: Architecture) -> Architecture:
    """The same kind of student, small: a shallow ViT or CLIP ResNet, or kdx-mini's trunk in place of timm's."""
    vision: dict[str, Any] = architecture.vision_cfg.to_dict()
    if "timm_model_name" in vision:
        vision = {**vision, "timm_model_name": "kdx_mini"}
    elif "patch_size" in vision:
        vision = {**vision, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
    else:
        vision = {**vision, "width": 8, "layers": [1, 1, 1, 1]}
    return Architecture.model_validate(
        {
            "name": "toy",
            "embed_dim": architecture.embed_dim // 32,
            "vision_cfg": {**vision, "image_size": 32},
            "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
        }
    )


@pytest.mark.parametrize("name", [*EXPECTED, *EXAMPLES])
def test_a_step_at_toy_width_trains_the_student_by_all_terms(name: str) -> None:
    recipe = read_recipe(name)
    model = build_model(_toy(recipe.architecture))
    random = np.random.default_rng(0)
    rows = np.arange(8)
    caches = []
    for teacher in recipe.teacher_names:
        width = read_architecture(teacher).embed_dim // 32
        unit = F.normalize(torch.from_numpy(random.standard_normal((2, 8, 1, width))), dim=-1).half()
        caches.append(TeacherCache((CachedShard(unit[0], unit[1]),), 1 / 0.07, None, reused=False))
    objective = Objective(
        recipe.objective, model.text_tower.text_projection.shape[1], [c.embed_dim for c in caches]
    )
    schedule = recipe.schedule(8192)
    assert schedule is not None
    device = Device(torch.device("cpu"))
    optimizer = build_optimizer((model, objective), recipe.optimizer)
    loop = Loop(
        recipe, schedule, RunState(model, objective, optimizer, device.scaler()), caches, device, ALONE
    )
    before = {name: value.clone() for name, value in model.named_parameters()}
    last_of_warmup = schedule.warmup_steps - 1
    tokens = random.integers(1, 99, (8, 8), dtype=np.int32)
    tokens[:, -1] = 99  # end of text
    batch = Batch(
        last_of_warmup, rows, np.zeros_like(rows), np.zeros_like(rows), np.empty(0, np.uint8), tokens
    )
    model.train()
    numbers = loop.step(batch, torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert optimizer.param_groups[0]["lr"] == recipe.optimizer.lr
    terms = {name: float(numbers[name]) for name in recipe.objective.terms}
    assert float(numbers["loss"]) == pytest.approx(sum(terms.values()), rel=1e-5)
    assert all(term > 0 for term in terms.values())
    changed = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert {"text_projection", "token_embedding.weight", "logit_scale"} < changed
    assert any(name.startswith("visual.") for name in changed)  # blocks behind a zero at the start come later


def _files() -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): tomllib.loads(path.read_text())
        for path in FOLDER.rglob("*.toml")
    }


def _parents(table: dict[str, Any]) -> list[str]:
    extends = table.get("extends", [])
    return [extends] if isinstance(extends, str) else extends


def _resolved(name: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a file gets from the files that it extends, without its own keys."""
    merged: dict[str, Any] = {}
    for parent in _parents(files[name]):
        own = {key: value for key, value in files[parent].items() if key != "extends"}
        merged = merge(merged, merge(_resolved(parent, files), own))
    return merged


def _repeated(own: dict[str, Any], inherited: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in own.items():
        if key not in inherited:
            continue
        if isinstance(value, dict):
            found += _repeated(value, inherited[key], f"{prefix}{key}.")
        elif value == inherited[key]:
            found.append(f"{prefix}{key}")
    return found


@pytest.mark.parametrize("name", sorted(_files()))
def test_no_file_repeats_what_it_inherits(name: str) -> None:
    files = _files()
    assert _repeated(files[name], _resolved(name, files)) == []


def test_every_file_that_is_no_run_is_extended() -> None:
    files = _files()
    extended = {parent for table in files.values() for parent in _parents(table)}
    assert {name for name in files if name.rpartition("/")[2].startswith("_")} <= extended
