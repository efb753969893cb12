"""Facts of kdx/cli/progress.py: where stderr is no terminal, a line comes every few seconds."""

import threading

import pytest

from kdx.cli import progress
from kdx.cli.progress import show_progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lines come without waiting; the event says that one was written."""
    written = threading.Event()

    def write(*args: object, **options: object) -> None:
        print(*args, **options)  # type: ignore[call-overload]
        written.set()

    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.01)
    monkeypatch.setattr(progress, "print", write, raising=False)
    return written


def test_a_log_lives_while_work_reports_nothing(
    quick: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress("export"):
        assert quick.wait(30)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line == "  export: 0 s so far" for line in lines)


def test_lines_say_how_far_the_work_is(quick: threading.Event, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("training") as report:
        report(1, 4, "loss 2.5")
        quick.clear()
        assert quick.wait(30)
        report(4, 4, "loss 2.0")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("  training: 1/4, ") and line.endswith("loss 2.5") for line in lines)
    assert lines[-1] == "  training: 4/4, 0 s left loss 2.0"


def test_work_that_fails_ends_its_lines(quick: threading.Event) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), show_progress("training"):
        raise RuntimeError
    assert threading.active_count() == before
