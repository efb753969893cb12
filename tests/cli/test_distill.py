"""Facts of `kdx distill`: recipes are listed and resolved, and a toy run goes from shards to a sealed student."""

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdx.cli import main
from kdx.core.errors import UsageError
from kdx.core.log import read_metrics
from kdx.data.shards import Sample, write_shards
from kdx.distill.recipe import read_recipe, recipe_names
from kdx.distill.unfinished import unfinished_step
from kdx.models.architectures import count_parameters, read_architecture
from kdx.models.checkpoint import open_checkpoint

MakeSamples = Callable[..., list[Sample]]
TOY = [
    argument
    for setting in ("steps=4", "batch_size=8", "optimizer.warmup_steps=1", "views.num_views=1")
    for argument in ("--set", setting)
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small, threads only wait for each other: for seconds where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a student exports takes seconds to find: tests/export does."""
    monkeypatch.setattr("kdx.export.onnx.check_exports", lambda architecture: None)


@pytest.fixture
def data(tmp_path: Path, make_samples: MakeSamples) -> Path:
    write_shards(tmp_path / "data", "train", make_samples(16))
    return tmp_path / "data"


def _run(*args: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["distill", *map(str, args)])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_the_shipped_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--list", "--json") == 0
    listed = {each.pop("name"): each for each in json.loads(capsys.readouterr().out)}
    assert list(listed) == recipe_names()
    swin = listed["clip-kd/swin-t-from-rn101"]
    assert (swin["student"], swin["teacher"], swin["steps"]) == ("Swin-T", "RN101", 401_888)
    assert swin["methods"] == ["crd", "fd", "icl"] and swin["published"]["imagenet_top1"] == 39.51
    assert listed["demo-baseline"]["teacher"] is None and listed["demo-baseline"]["published"] is None
    assert _run("--list") == 0
    table, legend = capsys.readouterr().out.split("\n\n")
    head, *lines = table.splitlines()
    assert head.split("  ")[0] == "recipe" and head.endswith("published top-1")
    assert [line.split()[0] for line in lines] == recipe_names()
    (line,) = (line for line in lines if line.startswith("clip-kd/swin-t-from-rn101 "))
    assert " ".join(line.split()[1:]) == "Swin-T RN101 crd + fd + icl 401,888 steps 39.51"
    used = {method for each in listed.values() for method in each["methods"]}
    explained = [line.split()[0] for line in legend.splitlines()[1:-1]]
    assert set(explained) == used and len(explained) == len(used)


def test_the_documentation_shows_the_table_and_a_recipe_that_extends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "recipes.md").read_text()
    assert _run("--list") == 0
    assert capsys.readouterr().out in text, "put the output of `kdx distill --list` there"
    (tmp_path / "mine.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    recipe = read_recipe(str(tmp_path / "mine.toml"))
    assert (recipe.student, recipe.teacher, recipe.objective.methods) == ("Swin-T", "ViT-B-16", ("fd",))
    assert (recipe.steps, recipe.optimizer.warmup_steps, recipe.optimizer.eps) == (20_000, 500, 1e-8)


def test_a_dry_run_prints_the_resolved_recipe_with_its_plan_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("demo-clip-kd", "--set", "objective.fd=7", "--set", "about=mine", "--dry-run")
    assert _run(*arguments) == 0
    shown = capsys.readouterr().out
    table = tomllib.loads(shown)  # the plan is a comment
    assert table["objective"]["fd"] == 7 and table["about"] == "mine"
    assert table["student"] == "kdx-mini"  # from the recipe that it extends
    plan = [line for line in shown.splitlines() if line.startswith("# ")]
    assert plan[0] == "# plan of demo-clip-kd"
    assert plan[1].startswith("# student    kdx-mini: 81.5 k image + 3.27 M text = 3.35 M parameters")
    assert plan[2].startswith("# teacher    kdx-mini-teacher: 1.24 M image + 3.27 M text = 4.51 M parameters")
    assert plan[3] == "# steps      450 of 128 pairs: 57.6 k pairs"
    assert plan[4].endswith("over the first 50")
    assert any(line == "#            OUT/student/model.safetensors  about 13.4 MB" for line in plan)
    assert _run(*arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"] == table and document["notes"] == []
    assert (
        document["plan"]["student"]["total_params"]
        == count_parameters(read_architecture("kdx-mini")).total_params
    )
    assert document["plan"]["pairs_seen"] == 57_600 and document["plan"]["epochs"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_student_that_cannot_be_exported_is_said_and_not_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(architecture: object) -> None:
        raise UsageError("ONNX has no such operator", remedy="choose another student")

    monkeypatch.setattr("kdx.export.onnx.check_exports", refuse)
    assert _run("demo-baseline", "--dry-run", "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "ONNX has no such operator" in note


def test_a_dry_run_of_absurd_length_prints_its_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("demo-clip-kd", "--dry-run", "--set", "steps=999999999999999999") == 0
    assert "# compute" in capsys.readouterr().out


@pytest.mark.parametrize(("out", "cache"), [("run", "run/cache"), ("cache/run", "cache"), ("run", "run")])
def test_run_and_cache_in_each_other_are_refused_before_any_work(
    tmp_path: Path,
    data: Path,
    mini_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    out: str,
    cache: str,
) -> None:
    places = ("--out", tmp_path / out, "--cache", tmp_path / cache)
    assert _run("demo-clip-kd", *TOY, "--data", data, "--teacher", mini_checkpoint, *places) == 2
    assert "none in the other" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_a_cache_that_nothing_needs_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--data", data, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert _run("demo-baseline", *TOY, *places) == 2
    assert "does not distil" in capsys.readouterr().err


def test_sigterm_keeps_the_run_and_says_how_to_go_on(tmp_path: Path, data: Path) -> None:
    program = [sys.executable, "-c", "from kdx.cli import main; main()", "distill", "demo-baseline", *TOY]
    places = ["--set", "steps=100000", "--data", str(data), "--out", str(tmp_path / "run")]
    metrics = tmp_path / "run.unfinished/run/metrics.jsonl"
    with subprocess.Popen([*program, *places], stderr=subprocess.PIPE, text=True) as training:
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                assert training.poll() is None
                time.sleep(0.05)
            training.terminate()
            said = training.communicate(timeout=60)[1]
        finally:
            training.kill()
    assert training.returncode == 143 and "is kept: the same command with --resume goes on" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run.unfinished"]
    assert unfinished_step(tmp_path / "run")


def test_a_dry_run_takes_what_data_and_teacher_tell(
    tmp_path: Path, data: Path, mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", data, "--teacher", mini_checkpoint, "--out", tmp_path / "run")
    assert _run("demo-clip-kd", *TOY, *given, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "steps      4 of 8 pairs: 32 pairs, 2.0 epochs of 16 pairs (here)" in shown
    assert "what this data's batches are cut to" in shown and "teacher cache" in shown
    assert f"{tmp_path / 'run.cache'}  about 4.22 kB" in shown  # 16 · (2 · 64 · (1 + 1) + 8) bytes
    assert (
        f"# note: {mini_checkpoint} is kdx-mini; the weights of this recipe are set for kdx-mini-teacher"
        in shown
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_published_score_is_shown_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("clip-kd/rn50-from-laion-vit-b-16", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert (
        "published  ImageNet top-1 55.40 %, teacher 67.10 % (LAION-400M); https://github.com/winycg/CLIP-KD"
        in shown
    )
    assert "412 M pairs, 32.0 epochs of 12.9 M pairs (published)" in shown


def test_a_teacher_of_another_architecture_trains_and_is_said(
    tmp_path: Path, data: Path, mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", data, "--teacher", mini_checkpoint, "--out", tmp_path / "run")
    assert _run("demo-clip-kd", *TOY, *given) == 0
    assert f"note: {mini_checkpoint} is kdx-mini" in capsys.readouterr().err


def test_a_teacher_and_its_student_are_trained(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    train_shards = data / "train-{00000..00000}.tar"
    assert _run("demo-teacher", "--data", train_shards, "--out", teacher, *TOY) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{teacher}\n" and f"next: kdx eval {teacher} --data HELD-OUT " in shown.err
    arguments = ("demo-clip-kd", "--data", data, "--teacher", teacher, *TOY)
    assert _run(*arguments, "--out", student, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == str(student) and result["student"] == str(student / "student")
    assert result["cache_reused"] is False and result["bad_images"] == 0
    assert open_checkpoint(student).spec.name == "kdx-mini"
    (line,) = read_metrics(student / "metrics.jsonl")
    assert line["step"] == 4 and line["loss"] == pytest.approx(result["final_loss"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "data",
        "student",
        "student.cache",
        "teacher",
    ]
    assert _run(*arguments, "--out", tmp_path / "other", "--cache", tmp_path / "student.cache") == 0
    assert f"reused the teacher cache {tmp_path / 'student.cache'}" in capsys.readouterr().err


def test_a_run_is_replaced_only_with_overwrite(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("demo-baseline", "--data", data, "--out", tmp_path / "run", *TOY)
    assert _run(*arguments) == 0
    before = open_checkpoint(tmp_path / "run").spec.model_digest
    assert _run(*arguments, "--set", "seed=1") == 2
    assert "exists already" in capsys.readouterr().err
    assert open_checkpoint(tmp_path / "run").spec.model_digest == before
    assert _run(*arguments, "--set", "seed=1", "--overwrite") == 0
    assert open_checkpoint(tmp_path / "run").spec.model_digest != before


def test_skipped_images_are_counted_and_their_list_is_named(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_samples(16)
    broken = Sample("broken", good[0].image[:60], ("x",), None)
    write_shards(tmp_path / "data", "train", [*good, broken])
    arguments = ("demo-baseline", "--data", tmp_path / "data", "--out", tmp_path / "run", *TOY)
    assert _run(*arguments, "--set", "max_bad_share=0.1", "--set", "batch_size=16") == 0
    assert (
        f"skipped 1 images that do not decode: {tmp_path / 'run' / 'skipped.jsonl'}"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("args", "code", "what", "remedy"),
    [
        ((), 2, "RECIPE is missing", "kdx distill --help"),
        (("demo-clip",), 2, "there is no recipe 'demo-clip'", "did you mean demo-clip-kd?"),
        (("demo-baseline",), 2, "--data and --out are needed", "kdx distill --help"),
        (
            ("demo-baseline", "--set", "optimizer.learning=1"),
            2,
            "unknown key optimizer.learning",
            "known keys: ",
        ),
        (("demo-baseline", "--set", "optimizer.lrr=1"), 2, "unknown key", "did you mean optimizer.lr?"),
        (("demo-baseline", "--set", "steps"), 2, "--set steps: expected key=value", "for example"),
        (("demo-baseline", "--set", "steps=0"), 2, "steps = 0", "set steps to 1 or more"),
        (("demo-baseline", "--set", "student=kdx-mni"), 2, "student = 'kdx-mni'", "did you mean kdx-mini?"),
        (
            ("demo-clip-kd", "--data", "DATA", "--out", "OUT", "--set", "batch_size=8"),
            2,
            "needs a teacher",
            "--teacher CHECKPOINT",
        ),
        (
            ("demo-baseline", "--data", "DATA", "--out", "OUT", "--teacher", "NONE", "--set", "batch_size=8"),
            2,
            "does not use a teacher",
            "leave --teacher out",
        ),
        (
            ("demo-clip-kd", "--data", "DATA", "--out", "OUT", "--teacher", "NONE", "--set", "batch_size=8"),
            4,
            "no checkpoint folder here",
            "check the path",
        ),
        (
            ("demo-baseline", "--data", "NONE", "--out", "OUT"),
            4,
            "there are no train shards",
            "check the path",
        ),
        (
            ("demo-baseline", "--data", "DATA", "--out", "OUT", "--set", "batch_size=17"),
            2,
            "batch_size = 17 is more than the 16 samples",
            "--set batch_size=16",
        ),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    code: int,
    what: str,
    remedy: str,
) -> None:
    paths = {"DATA": data, "OUT": tmp_path / "out", "NONE": tmp_path / "none"}
    assert _run(*(paths.get(arg, arg) for arg in args)) == code
    shown = capsys.readouterr()
    error, advice = shown.err.splitlines()[-2:]
    assert error.startswith("error: ") and what in error
    assert advice.startswith("  remedy: ") and remedy in advice
    assert not shown.out and [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_runs_are_drawn_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    page = tmp_path / "curves.html"
    assert _run("--plot", tmp_path / "one", tmp_path / "two", "--out", page, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"one": {"loss": 2.5}, "two": {"loss": 2.5}}
    assert page.read_text().count("<polyline") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--plot",), "which runs"),
        (("--plot", "run", "--dry-run"), "alone"),
        (("a", "b"), "one recipe, not 2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == 2
    assert says in capsys.readouterr().err
