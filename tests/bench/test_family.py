"""Facts of bench/family.py, its reading of runs and its page, with sealed runs of random weights."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import kdx
from kdx.bench.family import compare_family, family_table
from kdx.bench.family_members import read_members
from kdx.bench.family_page import render_family_page
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import sealed_folder
from kdx.data.shards import Sample, open_split, write_shards
from kdx.evaluate import evaluate_dataset
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import read_checkpoint_spec, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

PUBLISHED = {"source": "the paper", "teacher_imagenet_top1": 36.99, "imagenet_top1": 34.9}


def _checkpoint(path: Path, seed: int, network: str = "kdx-mini") -> Path:
    architecture = read_architecture(network)
    save_checkpoint(path, build_model(architecture, seed), architecture, clip_tokenizer())
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return _checkpoint(tmp_path / "teacher", 9)


@pytest.fixture
def make_run(tmp_path: Path, teacher: Path) -> Callable[..., Path]:
    """A run as `kdx distill` seals it, with a student of random weights. recipe: on top of seed and student."""

    def make(name: str, seed: int = 0, methods: tuple[str, ...] = (), **recipe: Any) -> Path:
        taught = {
            "name": "kdx-mini",
            "path": str(teacher),
            "digest": read_checkpoint_spec(teacher).model_digest,
        }
        fields = {
            "methods": list(methods),
            "teachers": [taught] if methods else [],
            "data": {"digest": "d", "pairs": 9},
        }
        with sealed_folder(tmp_path / name, "run", fields=fields) as folder:
            _checkpoint(folder / "student", seed)
            table = {"student": "kdx-mini", "seed": seed, "steps": 5, **recipe}
            (folder / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
        return tmp_path / name

    return make


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    write_shards(tmp_path / "data", "val", make_samples(12))
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\nfish\n")
    return tmp_path / "data"


def test_seeds_of_one_method_are_one_row_beside_what_was_published(
    teacher: Path, make_run: Callable[..., Path], data: Path
) -> None:
    students = [
        make_run(f"kd-{seed}", seed, ("crd", "fd", "icl"), teacher="kdx-mini", published=PUBLISHED)
        for seed in (0, 1)
    ]
    baseline = make_run("alone", 2)
    paths = [*students, baseline, teacher]
    document = compare_family(paths, open_split(data, "val"), seconds=0.01)
    document = json.loads(json.dumps(document))
    scores: dict[str, float] = {}
    for path in paths:
        with kdx.load(path) as model:
            scores[str(path)] = evaluate_dataset(model, data).score
    first, *others = document["rows"]
    assert (first["role"], first["method"], first["published_top1"]) == ("teacher", None, 36.99)
    assert {row["role"] for row in others} == {"student"}
    rows = {row["method"]: row for row in others}
    taught = rows["CLIP-KD"]
    seeds = [scores[str(path)] for path in students]
    assert taught["score"] == pytest.approx(statistics.mean(seeds))
    assert taught["std"] == pytest.approx(statistics.stdev(seeds)) and taught["interval"] is None
    assert [each["seed"] for each in taught["runs"]] == [0, 1]
    assert (taught["teachers"], taught["published_top1"]) == (["kdx-mini"], 34.9)
    alone = rows["baseline"]
    assert alone["score"] == scores[str(baseline)] and alone["std"] is None and len(alone["interval"]) == 2
    assert alone["published_top1"] is None and alone["ms"]["p50"] > 0
    assert alone["text_ms"]["num_samples"] >= 5 and alone["recalls"] == {}
    table = family_table(document)
    assert (
        "| student | kdx-mini | CLIP-KD | kdx-mini | " in table
        and "34.90 %" in table
        and "the paper" in table
    )


def test_runs_that_differ_in_more_than_their_seed_are_not_put_together(make_run: Callable[..., Path]) -> None:
    runs = [
        make_run("a", 0, views={"seed": 0, "flip": True}),
        make_run("b", 1, views={"seed": 1, "flip": True}, about="the same, told otherwise"),
        make_run("longer", 1, steps=9, views={"seed": 1, "flip": True}),
        make_run("inheriting", 1, inherit={"towers": ["text"]}),
        make_run("taught", 1, ("fd", "icl")),
    ]
    members = read_members(runs)
    assert members[0].likeness == members[1].likeness
    assert len({member.likeness for member in members}) == 4
    methods = [member.method for member in members]
    assert methods == ["baseline", "baseline", "baseline", "baseline, inherited weights", "fd + icl"]
    assert members[0].parameters > members[0].image_parameters > 0


def test_what_the_table_cannot_take_is_refused_before_anything_is_scored(
    make_run: Callable[..., Path], exported_model: Path, data: Path
) -> None:
    run = make_run("run")
    with pytest.raises(UsageError) as twice:
        read_members([run, run.parent / "data" / ".." / "run"])
    assert "twice" in twice.value.what
    with pytest.raises(UsageError) as exported:
        read_members([run, exported_model])
    assert exported.value.where == str(exported_model) and "kdx export --table" in str(exported.value.remedy)
    (run / "student" / "model.safetensors").unlink()
    with pytest.raises(DataError) as without:
        read_members([run])
    assert without.value.where == str(run / "student" / "model.safetensors")


def test_without_classes_recalls_stand_beside_each_other(
    make_run: Callable[..., Path], tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    unlabelled = [replace(sample, label=None) for sample in make_samples(12)]
    write_shards(tmp_path / "pairs", "val", unlabelled)
    runs = [make_run("one", 0), make_run("two", 1)]
    document = compare_family(runs, open_split(tmp_path / "pairs", "val"), seconds=0.01)
    assert document is not None
    (row,) = document["rows"]
    assert (
        row["recalls"]["recall@10"]["mean"] > row["score"]
    )  # of 12 images nearly all are among the first ten
    assert list(row["recalls"]) == ["recall@5", "recall@10"] and row["recalls"]["recall@5"]["std"] >= 0
    head, line = (each.split(" | ") for each in family_table(document).splitlines()[::2][:2])
    assert head[4:8] == ["recall@1", "recall@5", "recall@10", "seeds"] and len(head) == len(line)
    assert (
        line[6]
        == f"{100 * row['recalls']['recall@10']['mean']:.1f} ± {100 * row['recalls']['recall@10']['std']:.1f} %"
    )


def _row(**more: Any) -> dict[str, Any]:
    return {
        "role": "student",
        "network": "tiny",
        "method": "CLIP-KD",
        "teachers": ["large"],
        "score": 0.4,
        "std": 0.01,
        "interval": None,
        "published_top1": 34.9,
        "published_source": "the paper",
        "recalls": {},
        "image_parameters": 1_000_000,
        "parameters": 3_000_000,
        "ms": {"p50": 0.5, "p95": 1.0, "min": 0.4, "num_samples": 9},
        "text_ms": {"p50": 0.25, "p95": 1.0, "min": 0.2, "num_samples": 9},
        "runs": [{"path": "a", "seed": 0, "score": 0.4, "model_digest": ""}] * 3,
        **more,
    }


def test_the_page_names_the_models_and_escapes_what_it_is_given() -> None:
    slow = {"p50": 2.0, "p95": 2.0, "min": 2.0, "num_samples": 9}
    one = {"std": None, "interval": [0.5, 0.7], "score": 0.6, "parameters": 9_000_000, "ms": slow}
    document = {
        "rows": [
            _row(
                role="teacher", network="<b>large</b>", method=None, teachers=[], published_top1=None, **one
            ),
            _row(),
            _row(method="baseline", score=0.3, std=None),
        ],
        "dataset": "shards (val)",
        "protocol": "500 images",
        "metric": "zero_shot_top1",
        "num_images": 500,
        "load_average": 0.2,
        "provenance": {"cpu": "A CPU", "gpu": []},
    }
    page = render_family_page(document)
    HTMLParser().feed(page)
    assert "<b>large" not in page and page.count("&lt;b&gt;large") >= 3
    assert page.count('<circle class="front"') == 4 and page.count('<circle class="other"') == 2
    assert (
        "40.0 ± 1.0 %" in page and "60.0 % (50.0–70.0)" in page and "34.90 %" in page and "the paper" in page
    )
    assert "1 + 2 M" in page and ">0.25<" in page
    assert page.count('class="interval" x1') == 4  # of two models in two charts
