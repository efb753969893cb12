"""Facts of `kdx distill`: recipes are listed and resolved, and a toy run goes from shards to a sealed student."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdx.cli import main
from kdx.core.log import read_metrics
from kdx.data.shards import Sample, write_shards
from kdx.distill.recipe import recipe_names
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
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == recipe_names() and all(listed.values())
    assert _run("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == recipe_names()


def test_a_dry_run_prints_the_resolved_recipe_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("demo-clip-kd", "--set", "objective.fd=7", "--set", "about=mine", "--dry-run")
    assert _run(*arguments) == 0
    table = tomllib.loads(capsys.readouterr().out)
    assert table["objective"]["fd"] == 7 and table["about"] == "mine"
    assert table["student"] == "kdx-mini"  # from the recipe that it extends
    assert _run(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out) == table
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_and_its_student_are_trained(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert _run("demo-teacher", "--data", data, "--out", teacher, *TOY) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{teacher}\n" and f"next: kdx eval {teacher}" in shown.err
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
        (("demo-baseline", "--set", "steps=0"), 2, "steps = 0", "correct steps"),
        (("demo-baseline", "--set", "student=kdx-mni"), 2, "did you mean kdx-mini?", "correct student"),
        (("demo-clip-kd", "--data", "DATA", "--out", "OUT"), 2, "needs a teacher", "--teacher CHECKPOINT"),
        (
            ("demo-baseline", "--data", "DATA", "--out", "OUT", "--teacher", "NONE"),
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
