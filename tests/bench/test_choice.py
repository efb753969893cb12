"""Facts of bench/choice.py and its page: several exported models side by side, and the one for a budget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kdx.bench.choice import Budget, check_met, choice_table, compare_exports
from kdx.bench.choice_page import choice_chart, render_choice_page
from kdx.core.errors import GateError, SetupError, UsageError
from kdx.data.shards import Sample, write_shards
from kdx.evaluate import evaluate_dataset


def _row(path: str, score: float, ms: float, **more: Any) -> dict[str, Any]:
    timing = {"p50": ms, "p95": 2 * ms, "min": ms, "num_samples": 20}
    return {
        "path": path,
        "student": "tiny",
        "format": "onnx",
        "precision": "fp32",
        "metric": "zero_shot_top1",
        "score": score,
        "interval": [score - 0.01, score + 0.01],
        "parity": "PASS",
        "bytes": 1_500_000,
        "parameters": 400_000,
        "flops": {"image": 2_000_000_000, "text": 1},
        "image": {"1": timing, "32": timing},
        "text": {"1": timing},
        "peak_mib": 99.0,
        "pareto": True,
        **more,
    }


def _document(*rows: dict[str, Any], budget: str | None = None, chosen: str | None = None) -> dict[str, Any]:
    return {
        "models": list(rows),
        "left_out": {"engine": "there is no GPU"},
        "latency": {"percentile": "p95", "batch": 1},
        "num_images": 1000,
        "text_length": 12,
        "load_average": 0.3,
        "instruction_sets": ["avx2"],
        "budget": budget,
        "chosen": chosen,
        "provenance": {"cpu": "A CPU"},
    }


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("p95<=20ms@batch=1", Budget("p95", 20.0, 1)),
        (" p50 <= 1.5 ms @ batch=32 ", Budget("p50", 1.5, 32)),
    ],
)
def test_a_budget_is_read_and_told_alike(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20ms",
        "p99<=20ms@batch=1",
        "p95<=0ms@batch=1",
        "p95<=20ms@batch=0",
        "p95<20ms@batch=1",
        "p95<=20s@batch=1",
    ],
)
def test_what_is_no_budget_is_the_callers_fault(text: str) -> None:
    with pytest.raises(UsageError):
        Budget.parse(text)


def test_no_budget_is_always_met_and_a_missed_one_names_the_nearest() -> None:
    rows = (_row("slow", 0.6, 9.0), _row("fast", 0.4, 4.0))
    check_met(_document(*rows))
    check_met(_document(*rows, budget="p95<=20ms@batch=1", chosen="slow"))
    with pytest.raises(GateError) as caught:
        check_met(_document(*rows, budget="p95<=2ms@batch=1"))
    assert caught.value.where == "fast" and "8 ms" in caught.value.what


def test_models_are_measured_scored_and_the_most_accurate_that_meets_is_chosen(
    exported_model: Path, tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    import kdx

    write_shards(tmp_path / "data", "val", make_samples(12))
    twin = shutil.copytree(exported_model, tmp_path / "twin")
    paths, budget = [exported_model, twin], Budget("p95", 10_000.0, 2)
    document = compare_exports(paths, tmp_path / "data", budget=budget, seconds=0.01)
    document = json.loads(json.dumps(document))
    first, second = document["models"]
    with kdx.load(exported_model) as model:
        evaluation = evaluate_dataset(model, tmp_path / "data")
    assert first["score"] == second["score"] == evaluation.score and document["num_images"] == 12
    assert first["image"]["2"]["p95"] <= second["image"]["2"]["p95"]  # the faster of equals stands first
    assert first["pareto"] and document["chosen"] == first["path"]
    assert list(first["image"]) == ["1", "2", "32"] and first["image"]["1"]["num_samples"] >= 20
    assert first["bytes"] == sum(file.stat().st_size for file in exported_model.glob("*.onnx"))
    assert first["flops"]["image"] > 0 and 20 < first["peak_mib"] < 5_000
    table = choice_table(document)
    assert "chosen" in table and table.count("| onnx fp32 |") == 2


def test_a_model_given_twice_is_refused(exported_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compare_exports([exported_model, exported_model], tmp_path)


def test_what_this_machine_cannot_run_is_left_out_with_the_reason(
    exported_model: Path,
    tmp_path: Path,
    make_samples: Callable[..., list[Sample]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import kdx

    write_shards(tmp_path / "data", "val", make_samples(6))
    engine, load = shutil.copytree(exported_model, tmp_path / "engine"), kdx.load

    def load_here(path: Path) -> Any:
        if path.name == "engine":
            raise SetupError("there is no GPU", remedy="run it where there is one")
        return load(path)

    monkeypatch.setattr(kdx, "load", load_here)
    document = compare_exports([engine, exported_model], tmp_path / "data", seconds=0.01)
    assert document["left_out"] == {str(engine): "there is no GPU"}
    assert [row["path"] for row in document["models"]] == [str(exported_model)]
    with pytest.raises(SetupError):
        compare_exports([engine], tmp_path / "data")


def test_the_page_shows_the_front_and_escapes_what_it_is_given() -> None:
    rows = (
        _row("best", 0.6, 9.0),
        _row("<b>beaten</b>", 0.3, 9.0, pareto=False),
        _row("fast", 0.4, 4.0, interval=None, flops=None),
    )
    document = _document(*rows, budget="p95<=10ms@batch=1", chosen="fast")
    chart = choice_chart(document)
    assert [mark.kind for mark in chart.marks] == ["front", "other", "chosen"]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in chart.front.split())
    assert x0 < x1 and y0 > y1  # faster to the left, more accurate above
    page = render_choice_page(document)
    HTMLParser().feed(page)
    assert "<b>beaten" not in page and "&lt;b&gt;beaten" in page and "there is no GPU" in page
    assert "Chosen for p95&lt;=10ms@batch=1" in page
