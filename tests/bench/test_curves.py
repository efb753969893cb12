"""Facts of kdx/bench/curves.py: what runs logged is drawn, whatever they logged."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kdx.bench.curves import MAX_RUNS, chart_numbers, read_runs, render_curves, thin_out
from kdx.core.errors import DataError, UsageError


def log_run(folder: Path, *rows: dict[str, Any], tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder


def test_each_number_gets_a_chart_with_a_line_for_each_run_that_logged_it(tmp_path: Path) -> None:
    alone = log_run(
        tmp_path / "alone", {"step": 10, "epoch": 0.1, "loss": 3.0}, {"step": 20, "epoch": 0.2, "loss": 2}
    )
    taught = log_run(tmp_path / "taught", {"step": 10, "epoch": 0.1, "loss": 2.5, "teacher_cosine": 0.7})
    runs = read_runs([alone, taught])
    charts = {chart.name: chart for chart in chart_numbers(runs)}
    assert list(charts) == ["loss", "teacher_cosine"]
    assert [line.name for line in charts["loss"].chart.lines] == ["alone", "taught"]
    assert charts["loss"].last == {"alone": 2.0, "taught": 2.5}
    assert charts["teacher_cosine"].last == {"taught": 0.7}
    page = render_curves(runs)
    assert page.count("<polyline") == 3 and "teacher_cosine" in page


def test_a_number_that_is_logged_now_and_then_is_drawn_with_its_points(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 2.0} | ({"val_zero_shot_top1": 0.3} if step == 100 else {})
        for step in range(1, 101)
    ]
    page = render_curves(read_runs([log_run(tmp_path / "run", *rows)]))
    assert page.count("<circle") == 1 and page.count("<polyline") == 2


def test_scores_stand_behind_the_loss_with_their_best_and_what_is_measured_at_the_end(tmp_path: Path) -> None:
    rows = [
        {
            "step": step,
            "loss": 2.0,
            "task": 1.0,
            "peak_mib": 9.0,
            "val_zero_shot_top1": score,
            "pairs_per_second": 5.0,
        }
        for step, score in ((10, 0.2), (20, 0.5), (30, 0.5))
    ]
    charts = chart_numbers(runs := read_runs([log_run(tmp_path / "run", *rows)]))
    names = ["loss", "val_zero_shot_top1", "task", "pairs_per_second", "peak_mib"]
    assert [chart.name for chart in charts] == names
    assert [chart.best for chart in charts] == [{}, {"run": (20, 0.5)}, {}, {}, {}]
    assert "run 0.5 at step 20" in render_curves(runs)


def test_a_run_that_is_writing_is_drawn_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = log_run(tmp_path / "run", {"step": 10, "loss": 3.0}, tail='{"step": 20, "lo')
    assert read_runs([run])[0].curves == {"loss": [(10, 3.0)]}


def test_numbers_that_are_not_finite_have_no_point(tmp_path: Path) -> None:
    run = log_run(
        tmp_path / "run", {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0, "note": "text"}
    )
    assert read_runs([run])[0].curves == {"loss": [(2, 1.0)]}


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [log_run(tmp_path / place / "run", {"step": 1, "loss": 1.0}) for place in "ab"]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run"]


def test_a_name_cannot_write_into_the_page(tmp_path: Path) -> None:
    page = render_curves(read_runs([log_run(tmp_path / "<b>run", {"step": 1, "<i>loss": 1.0})]))
    assert "<b>" not in page and "<i>loss" not in page


def test_folders_without_numbers_and_runs_given_twice_are_refused(tmp_path: Path) -> None:
    run = log_run(tmp_path / "run", {"step": 1, "loss": 1.0})
    for folder in (
        tmp_path / "nothing",
        log_run(tmp_path / "empty"),
        log_run(tmp_path / "bad", tail="no json\n"),
    ):
        with pytest.raises(DataError) as error:
            read_runs([run, folder])
        assert str(error.value.where).startswith(str(folder))
    with pytest.raises(UsageError, match="twice"):
        read_runs([run, tmp_path / "." / "run"])
    with pytest.raises(UsageError, match="told apart"):
        read_runs([run] * (MAX_RUNS + 1))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(1, 50))
def test_a_curve_thinned_out_ends_where_it_ended_and_stays_within_its_values(
    values: list[float], most: int
) -> None:
    curve = [(10 * (place + 1), value) for place, value in enumerate(values)]
    thin = thin_out(curve, most)
    assert len(thin) <= most and thin[-1][0] == curve[-1][0]
    assert min(values) - 1e-6 <= min(v for _, v in thin) and max(v for _, v in thin) <= max(values) + 1e-6
