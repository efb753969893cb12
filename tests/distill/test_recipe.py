"""Facts of distill/recipe.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.distill.recipe import read_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses_and_says_what_it_is(name: str) -> None:
    assert read_recipe(name).about


def test_clip_kd_differs_from_its_baseline_in_the_objective_alone() -> None:
    baseline, distilled = read_recipe("demo-baseline"), read_recipe("demo-clip-kd")
    same = {"about": "", "objective": baseline.objective, "teacher": None}
    assert baseline.model_copy(update=same) == distilled.model_copy(update=same)
    assert (distilled.objective.crd, distilled.objective.icl, distilled.objective.fd) == (0.5, 1.0, 31.25)


def test_settings_win_over_the_file() -> None:
    recipe = read_recipe("demo-baseline", ["optimizer.lr=0.5", "steps=70", "about=quick"])
    assert (recipe.optimizer.lr, recipe.steps, recipe.about) == (0.5, 70, "quick")
    assert recipe.optimizer.warmup_steps == 50


def test_a_users_file_may_extend_a_shipped_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "demo-clip-kd"\nsteps = 90\n')
    recipe = read_recipe(str(path))
    assert recipe.steps == 90 and recipe.objective.fd == 31.25


def test_another_teacher_does_not_keep_the_source_of_the_first() -> None:
    recipe = read_recipe("siglip2-b-16-to-vit-t-16", ['teacher=["RN50", "RN101"]'])
    assert recipe.teacher_names == ("RN50", "RN101") and recipe.teacher_imports == {}


def test_a_softmax_student_has_no_bias() -> None:
    """It would learn nothing, and its zero-shot scores would be sigmoids around it."""
    for contrast, bias in (("softmax", None), ("sigmoid", -10)):
        settings = ['student="ViT-B-16-SigLIP2"', f'objective.contrast="{contrast}"']
        assert read_recipe("demo-baseline", settings).architecture.init_logit_bias == bias


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        ('extends = "demo-baseline"\n[optimizer]\nlrr = 1', "optimizer.lrr", "did you mean optimizer.lr?"),
        ('extends = "demo-baseline"\nstep = 1', "unknown key step", "did you mean steps?"),
        ('extends = "demo-baseline"\nsteps = "many"', "steps = 'many'", "correct steps"),
        (
            'extends = "demo-baseline"\nstudent = "kdx-minni"',
            "student = 'kdx-minni'",
            "did you mean kdx-mini?",
        ),
        ('student = "kdx-mini"', "steps or epochs", "set one"),
        ('student = "kdx-mini"\nsteps = 5\nepochs = 2', "steps or epochs", "set one"),
        ("steps = ", "not valid TOML", "correct the file"),
        ('extends = "demo-baselin"', "no recipe 'demo-baselin'", "did you mean demo-baseline?"),
        ('extends = "demo-baseline"\n[views]\nscale = [0.9, 0.5]', "views", "correct views"),
        (
            'extends = "demo-baseline"\n[objective]\ntask = 0',
            "objective.task = 0",
            "set objective.task, or one of",
        ),
        (
            'extends = "demo-baseline"\nteacher = "ViT-B-16"\nteacher_source = ["ViT-B-16:openai", "RN50:openai"]',
            "teacher_source is of 2 and teacher of 1",
            "as many sources as teachers",
        ),
        ('extends = "demo-baseline"\nsteps = 0', "steps = 0", "set steps to 1 or more"),
        ('extends = "demo-baseline"\nmax_bad_share = 1', "max_bad_share = 1", "set max_bad_share below 1"),
        (
            'extends = "demo-baseline"\nteacher = "kdx-mini-techer"',
            "teacher = 'kdx-mini-techer'",
            "did you mean",
        ),
        (
            'extends = "demo-baseline"\n[model]\nlock_text = true',
            "model.lock_text = true",
            "inherit that tower",
        ),
        ('extend = "demo-baseline"', "unknown key extend", "did you mean extends?"),
        (
            'extends = "demo-baseline"\nwarmup_steps = 2',
            "warmup_steps = 2",
            "did you mean optimizer.warmup_steps?",
        ),
        ('extends = "demo-baseline"\n[optimizer]\nsteps = 2', "optimizer.steps = 2", "did you mean steps?"),
        (
            'extends = "demo-baseline"\nlayers = [0]',
            "unknown key layers",
            "inherit.image.layers or inherit.text.layers",
        ),
        ("extends = 3", "extends = 3: expected names", 'for example extends = "base"'),
    ],
)
def test_a_fault_is_named_with_its_remedy(tmp_path: Path, content: str, what: str, remedy: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_recipe(str(path))
    assert what in str(caught.value)
    assert remedy in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("settings", "named", "remedy"),
    [
        (
            ["student=ResNet-18", "objective.mfd=3"],
            "student = 'ResNet-18' with objective.mfd = 3",
            "objective.mfd = 0",
        ),
        (
            ["student=Swin-T", "objective.mfd=3"],
            "student = 'Swin-T' with objective.mfd = 3",
            "choose a ViT student",
        ),
        (["batch_size=1", "objective.crd=1"], "batch_size = 1", "set batch_size to 2 or more"),
        (["batch_size=0"], "batch_size = 0", "set batch_size to 2 or more"),
        (["batch_size=many"], "batch_size = 'many'", '"auto"'),
        (["objective.ckd=1"], "unknown key objective.ckd = 1", "did you mean objective.crd?"),
        (["objective.kl=2.5"], "unknown key objective.kl = 2.5", "known keys: afd, affinity, "),
        (
            ["objective.task=0", "objective.affinity=1", "objective.contrast='sigmoid'"],
            'objective.contrast = "sigmoid" has no use',
            "set objective.task or objective.crd",
        ),
        (["objective.fd=-1"], "objective.fd = -1", "set objective.fd to 0 or more"),
        (["objective.compat=paperr"], "objective.compat = 'paperr'", "'paper' or 'clip-kd'"),
        (["objective.mfd=1", "objective.mask_ratio=1"], "objective.mask_ratio = 1", "below 1"),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_and_remedy(
    settings: list[str], named: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe("demo-baseline", settings)
    assert named in str(caught.value)
    assert remedy in (caught.value.remedy or "")


def test_shipped_recipes_are_read_without_torch() -> None:
    """Importing it takes seconds, and `kdx distill --list` reads all of them."""
    script = (
        "import sys; from kdx.distill.recipe import read_recipe, recipe_names; "
        "[read_recipe(name) for name in recipe_names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(f'extends = "{two}"')
    two.write_text(f'extends = "{one}"')
    with pytest.raises(UsageError) as caught:
        read_recipe(str(one))
    assert caught.value.where == str(one)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(str(tmp_path / "none.toml"))
    assert caught.value.where == str(tmp_path / "none.toml")


@pytest.mark.parametrize("betas", ["[2, 3]", "[0.9, 1]", "[-0.1, 0.9]"])
def test_betas_that_the_optimiser_cannot_take_are_refused(betas: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe("demo-baseline", [f"optimizer.betas={betas}"])
    assert "optimizer.betas" in caught.value.what
