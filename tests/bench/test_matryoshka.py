"""Facts of bench/matryoshka.py and `kdx bench matryoshka` at toy size."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kdx
from kdx.bench import matryoshka
from kdx.cli.bench import command
from kdx.core.dimensions import first_dimensions
from kdx.core.errors import UsageError
from kdx.core.folders import open_sealed
from kdx.data.shards import Sample, open_split, write_shards
from kdx.evaluate import evaluate_dataset
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

TOY = [
    argument
    for setting in ("steps=2", "optimizer.warmup_steps=1", "batch_size=8", "views.num_views=1")
    for argument in ("--set", setting)
]


@pytest.fixture
def job(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> list[str]:
    samples = make_samples(30)
    write_shards(tmp_path / "data", "train", samples[:20])
    write_shards(tmp_path / "data", "val", samples[20:])
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\nfish\n")
    architecture = read_architecture("kdx-mini")
    save_checkpoint(tmp_path / "teacher", build_model(architecture, 1), architecture, clip_tokenizer())
    paths = {"--pairs": "data", "--data": "data", "--teacher": "teacher", "--out": "out"}
    return [part for option, name in paths.items() for part in (option, str(tmp_path / name))]


def test_a_student_of_all_widths_stands_beside_one_of_each_and_one_that_is_cut(
    tmp_path: Path, job: list[str]
) -> None:
    arguments = ["matryoshka", "demo-clip-kd", "--dims", "8,64", "--seeds", "1", *job, *TOY]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    open_sealed(tmp_path / "out", matryoshka.KIND)
    document = json.loads((tmp_path / "out/widths.json").read_text())
    assert {(run["kind"], run["dimensions"]) for run in document["runs"]} == {
        *(("matryoshka", width) for width in (8, 64)),
        *(("cut", width) for width in (8, 64)),
        ("alone", 8),
    }
    runs = tmp_path / "out/runs"
    assert kdx.load(runs / "matryoshka-0").spec.matryoshka_dims == (8, 64)
    assert kdx.load(runs / "alone-8-0").spec.embed_dim == 8
    plain = kdx.load(runs / "cut-0")
    assert plain.spec.matryoshka_dims == ()
    students = document["students"]
    assert students["cut"]["64"] == students["alone"]["64"]
    assert students["cut"]["64"]["mean"] == evaluate_dataset(plain, tmp_path / "data").score
    # the cut student's score at 8, by hand
    samples = list(open_split(tmp_path / "data", "val"))
    images = first_dimensions(plain.embed_images([sample.image for sample in samples]), 8)
    classes = first_dimensions(
        plain.embed_texts([f"a photo of a {name}." for name in ("cat", "dog", "fish")]), 8
    )
    hits = (images @ classes.T).argmax(axis=1) == np.array([sample.label for sample in samples])
    assert students["cut"]["8"]["mean"] == pytest.approx(hits.mean())
    assert "| 8 |" in result.output and "| 64 |" in result.output


@pytest.mark.parametrize(
    ("recipe", "dims"), [("demo-clip-kd", "64"), ("demo-clip-kd", "8,32"), ("demo-baseline", "8,64")]
)
def test_what_could_not_be_compared_is_refused(job: list[str], recipe: str, dims: str) -> None:
    result = CliRunner().invoke(command, ["matryoshka", recipe, "--dims", dims, *job, *TOY])
    assert isinstance(result.exception, UsageError)
