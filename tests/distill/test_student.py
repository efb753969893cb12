"""Facts of distill/student.py and distill/model_config.py: how a recipe's student starts."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdx.core.errors import UsageError
from kdx.core.folders import read_manifest
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.distill import Recipe, open_teachers, read_recipe, train
from kdx.distill.student import build_student
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.clip import ClipModel
from kdx.models.clip_vocabulary import clip_tokenizer

TOY = ["steps=3", "batch_size=8", "optimizer.warmup_steps=1", "views.num_views=1"]


@pytest.fixture
def samples(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> ShardSet:
    write_shards(tmp_path / "data", "train", make_samples(16))
    return open_split(tmp_path / "data", "train")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kdx-mini, so that both towers can be inherited, with weights that no recipe's seed gives."""
    path = tmp_path_factory.mktemp("teacher") / "checkpoint"
    architecture = read_architecture("kdx-mini")
    save_checkpoint(path, build_model(architecture, 77), architecture, clip_tokenizer())
    return path


def _recipe(*settings: str, name: str = "demo-baseline") -> Recipe:
    return read_recipe(name, [*TOY, *settings])


def _equal(one: ClipModel, other: ClipModel, *, image: bool) -> bool:
    """Whether two models agree in every weight of a tower, batch statistics included."""
    theirs = other.state_dict()
    return all(
        torch.equal(value, theirs[name])
        for name, value in one.state_dict().items()
        if name.startswith("visual.") == image and name != "logit_scale"
    )


def test_the_towers_named_are_inherited_and_the_others_random(teacher: Path) -> None:
    source, random = open_checkpoint(teacher).model, build_model(read_architecture("kdx-mini"), 0)
    student, inputs = build_student(_recipe('inherit.towers=["text"]'), [teacher])
    assert _equal(student, source, image=False) and _equal(student, random, image=True)
    assert inputs == {"inherited": open_checkpoint(teacher).spec.model_digest}


@pytest.mark.parametrize(("contrast", "expected"), [("softmax", 100), ("sigmoid", 112)])
def test_clips_limit_on_the_scale_is_not_siglips(
    contrast: str, expected: float, samples: ShardSet, tmp_path: Path
) -> None:
    """Published SigLIPs have scales of 110 and more, which whoever inherits them must not lose."""
    recipe = _recipe(f'objective.contrast="{contrast}"', f'inherit.source="{tmp_path / "source"}"', "steps=2")
    source = build_model(recipe.architecture, 77)
    with torch.no_grad():
        source.logit_scale.fill_(math.log(112))
    save_checkpoint(tmp_path / "source", source, recipe.architecture, clip_tokenizer())
    train(recipe, samples, tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").spec.logit_scale == pytest.approx(expected, rel=1e-2)


def test_without_the_table_nothing_is_inherited(teacher: Path) -> None:
    student, inputs = build_student(_recipe(), [])
    assert _equal(student, build_model(read_architecture("kdx-mini"), 0), image=True) and inputs == {}


def test_a_path_in_the_recipe_stands_for_the_teacher(
    tmp_path: Path, samples: ShardSet, teacher: Path
) -> None:
    recipe = _recipe(f'inherit.source="{teacher}"', "inherit.text.heads=[0, 1]", "precision=fp32")
    assert not recipe.needs_teacher
    train(recipe, samples, tmp_path / "run")
    inputs = read_manifest(tmp_path / "run").provenance["inputs"]
    assert inputs == {"data": samples.digest, "inherited": open_checkpoint(teacher).spec.model_digest}
    assert read_recipe(str(tmp_path / "run" / "recipe.toml")) == recipe


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_locked_tower_leaves_training_as_it_was_inherited(
    tmp_path: Path, samples: ShardSet, teacher: Path, locked: str
) -> None:
    recipe = _recipe("inherit.towers=['image', 'text']", f"model.lock_{locked}=true")
    open_teachers(recipe, samples, [teacher], tmp_path / "cache")
    train(recipe, samples, tmp_path / "run", teachers=[teacher])
    student, source = open_checkpoint(tmp_path / "run").model, open_checkpoint(teacher).model
    assert _equal(student, source, image=locked == "image")
    assert not _equal(student, source, image=locked != "image")


def test_gradient_checkpointing_gives_the_same_student(tmp_path: Path, samples: ShardSet) -> None:
    for name, switch in (("plain", "false"), ("checkpointed", "true")):
        train(_recipe(f"model.grad_checkpointing={switch}"), samples, tmp_path / name)
    plain, checkpointed = (
        open_checkpoint(tmp_path / n).model.state_dict() for n in ("plain", "checkpointed")
    )
    for name, value in plain.items():
        assert torch.allclose(checkpointed[name], value, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["inherit.text.layers=[0, 5]"], "inherit.text.layers = [0, 5] goes beyond the teacher's 2 layers"),
        (["inherit.towers=['image']", "student=ViT-T-16"], "kdx_mini"),
        (["student=RN50", "model.grad_checkpointing=true"], "no gradient checkpointing"),
    ],
)
def test_a_student_that_cannot_be_is_refused_before_the_cache_is_made(
    tmp_path: Path, samples: ShardSet, teacher: Path, settings: list[str], what: str
) -> None:
    recipe = _recipe(*settings, name="demo-clip-kd")
    with pytest.raises(UsageError) as caught:
        open_teachers(recipe, samples, [teacher], tmp_path / "cache")
    assert what in caught.value.what
    assert not (tmp_path / "cache").exists()


def test_inheriting_from_the_teacher_asks_for_it(tmp_path: Path, samples: ShardSet) -> None:
    recipe = _recipe("inherit.towers=['text']")
    assert recipe.needs_teacher
    with pytest.raises(UsageError) as caught:
        open_teachers(recipe, samples, [], tmp_path / "cache")
    assert caught.value.remedy == "pass --teacher CHECKPOINT"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["model.lock_image=true"], "lock_image = true would lock random weights"),
        (["model.lock_image=true", "inherit.towers=['text']"], "lock_image = true would lock random weights"),
        (["model.lock_image=true", "model.lock_text=true"], "leave nothing to learn"),
        (["inherit.towers=['text']", "inherit.image.heads=[0]"], "inherit.image is set, but towers"),
        (["objective.mfd=2"], "objective.mfd = 2: the image tower ByobNet has no patches to hide"),
        (["inherit.towers=[]"], "inherit.towers"),
        (["inherit.towers=['audio']"], "inherit.towers"),
        (["inherit.text.layer=[0]"], "unknown key inherit.text.layer"),
        (["student=timm:resnet5"], "did you mean timm:resnet50+T?"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_the_recipe_is_read(
    settings: list[str], what: str
) -> None:
    with pytest.raises(UsageError) as caught:
        _recipe(*settings)
    assert what in f"{caught.value}; {caught.value.remedy}"


def test_a_recipe_takes_a_student_of_open_clip_or_timm() -> None:
    assert _recipe("student=ViT-B-32").student == "ViT-B-32"
    assert _recipe("student=timm:test_vit+B").student == "timm:test_vit+B"


def test_synchronised_batch_norms_keep_weights_and_embeddings() -> None:
    plain, _ = build_student(_recipe(), [])
    shared, _ = build_student(_recipe(), [], sync_batch_norms=True)
    kinds = {type(module) for module in shared.modules() if isinstance(module, _BatchNorm)}
    assert kinds and all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
    assert list(shared.state_dict()) == list(plain.state_dict())
    size = read_architecture("kdx-mini").preprocess.image_size
    pixels = torch.randn(2, 3, size, size)
    assert torch.equal(shared.eval().encode_image(pixels), plain.eval().encode_image(pixels))
