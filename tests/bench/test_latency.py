"""Facts of kdx/bench/latency.py under a clock that the tests turn."""

import time
from collections.abc import Callable

import pytest

from kdx.bench import latency, measure_latency
from kdx.core.errors import UsageError

IMAGES = [b"a", b"b", b"c"]


class _Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def _taking(clock: _Clock, seconds: Callable[[int], float]) -> Callable[[list[bytes]], None]:
    """An encoder whose n-th call takes seconds(n)."""
    calls = 0

    def embed(batch: list[bytes]) -> None:
        nonlocal calls
        clock.now += seconds(calls)
        calls += 1

    return embed


def test_percentiles_are_nearest_rank_in_milliseconds_without_the_warm_up(clock: _Clock) -> None:
    def seconds(call: int) -> float:
        if call < latency.WARM_UP:
            return 60.0
        turn, timed = divmod(call - latency.WARM_UP, 2)
        return (turn + 1) / 1000 if timed else 0.1  # 1, 2, … 100 ms, each after a call that is not timed

    measured = measure_latency({"only": _taking(clock, seconds)}, IMAGES, batch_sizes=[1], seconds=15.04)
    row = measured["only"]["1"]
    assert row["num_samples"] == 100  # 100 × 100 ms + 5.05 s
    assert [row[name] for name in ("min", "p50", "p95", "p99")] == pytest.approx([1, 50, 95, 99])
    assert row["null_ms"] == 0
    assert row["load_average"] >= 0


def test_at_least_thirty_rounds_are_taken_however_slow_they_are(clock: _Clock) -> None:
    slow = _taking(clock, lambda _: 10.0)
    measured = measure_latency({"slow": slow}, IMAGES, batch_sizes=[1, 8], seconds=1)
    assert [measured["slow"][batch]["num_samples"] for batch in ("1", "8")] == [30, 30]
    assert measured["slow"]["8"]["p50"] == pytest.approx(10_000)


def test_the_time_budget_ends_the_run(clock: _Clock) -> None:
    measured = measure_latency({"a": _taking(clock, lambda _: 0.1)}, IMAGES, batch_sizes=[1], seconds=9.95)
    assert measured["a"]["1"]["num_samples"] == 50  # two calls a turn


def test_runtimes_take_turns_of_two_calls_and_get_the_same_images(clock: _Clock) -> None:
    heard: list[tuple[str, list[bytes]]] = []

    def named(name: str) -> Callable[[list[bytes]], None]:
        embed = _taking(clock, lambda _: 0.001)

        def listen(batch: list[bytes]) -> None:
            heard.append((name, batch))
            embed(batch)

        return listen

    measure_latency({"a": named("a"), "b": named("b")}, IMAGES, batch_sizes=[2], seconds=0.001)
    turns = heard[2 * latency.WARM_UP :]
    assert turns[::2] == turns[1::2] and len(turns) == 30 * 2 * 2
    rounds = list(zip(turns[::4], turns[2::4], strict=True))
    for first, second in rounds:
        assert {first[0], second[0]} == {"a", "b"}
        assert first[1] == second[1]
    assert [first[1] for first, _ in rounds[:2]] == [[b"a", b"b"], [b"c", b"a"]]
    assert {first[0] for first, _ in rounds} == {"a", "b"}  # neither always goes first


def test_progress_ends_at_the_total(clock: _Clock) -> None:
    seen: list[tuple[int, int]] = []
    measure_latency(
        {"a": _taking(clock, lambda _: 0.001)},
        IMAGES,
        batch_sizes=[1],
        seconds=0.001,
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert seen[-1] == (100, 100) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_fault_of_a_runtime_is_passed_on() -> None:
    def broken(batch: list[bytes]) -> None:
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        measure_latency({"broken": broken}, IMAGES, seconds=0.001)


def test_the_real_clock_runs_in_milliseconds() -> None:
    measured = measure_latency({"a": lambda _: time.sleep(0.002)}, IMAGES, batch_sizes=[1], seconds=0.01)
    assert measured["a"]["1"]["min"] >= 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoders": {}}, "nothing"),
        ({"encoders": {"null": print}}, "null"),
        ({"items": []}, "nothing"),
        ({"batch_sizes": []}, "[]"),
        ({"batch_sizes": [0]}, "[0]"),
        ({"batch_sizes": [1, 1]}, "[1, 1]"),
        ({"seconds": 0.0}, "0.0"),
        ({"seconds": float("nan")}, "nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"encoders": {"a": print}, "items": IMAGES, **change}
    with pytest.raises(UsageError) as error:
        measure_latency(**arguments)  # type: ignore[arg-type]
    assert named in error.value.what and error.value.remedy
