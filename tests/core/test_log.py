"""Facts of kdx/core/log.py."""

from pathlib import Path

from kdx.core.log import MetricsLog, read_metrics


def test_lines_are_appended_and_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as metrics:
        metrics.write(step=1, loss=0.5)
        assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "loss": 0.5}]
    with MetricsLog(tmp_path / "m.jsonl") as metrics:
        metrics.write(step=2, loss=0.25)
    assert [line["step"] for line in read_metrics(tmp_path / "m.jsonl")] == [1, 2]


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"ste')
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1}]
