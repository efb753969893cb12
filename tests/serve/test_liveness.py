"""Facts of serve/liveness.py with a clock and a server that are known; tests/serve/test_load.py loads a real one."""

from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from kdx.core.errors import SetupError
from kdx.runtime.triton import BusyError
from kdx.serve import liveness
from kdx.serve.liveness import STALLED, Watch
from kdx.serve.served_model import ServedModel


class _Stub:
    pid = 1

    def __init__(self) -> None:
        self.state, self.cpu = psutil.STATUS_SLEEPING, 0.0

    def status(self) -> str:
        if self.state == "gone":
            raise psutil.NoSuchProcess(self.pid)
        return self.state

    def cpu_times(self) -> tuple[float, ...]:
        return self.cpu / 2, self.cpu / 2, 0.0


class _Server:
    """Answers each probe as `answer` says; each takes ten seconds of a clock that the test holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.answer: Exception | None = None
        self.answered = {"embed_image": 0, "embed_text": 0, "zero_shot": 0}
        self.stubs = {model: [_Stub(), _Stub()] for model in self.answered}
        self.asked: list[str] = []
        monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(liveness, "probe", self._probe)
        connection = SimpleNamespace(url="grpc://127.0.0.1:1", count_answered=lambda: dict(self.answered))
        models = [
            ServedModel(name, "python", 0, (), (), 2, asks=asks)
            for name, asks in {
                "embed_image": (),
                "embed_text": (),
                "zero_shot": ("embed_image", "embed_text"),
            }.items()
        ]
        self.watch = Watch(cast(Any, connection), models, self.stubs)

    def _probe(self, connection: object, models: list[ServedModel], *, timeout: float) -> None:
        self.asked += [model.name for model in models]
        self.now += 10
        if self.answer:
            raise self.answer

    def look(self, times: int) -> None:
        for _ in range(times):
            self.watch.look()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> _Server:
    return _Server(monkeypatch)


def test_each_model_is_asked_in_turn(server: _Server) -> None:
    server.look(6)
    assert server.asked == ["embed_image", "embed_text", "zero_shot"] * 2


def test_late_answers_are_load_while_requests_are_answered(server: _Server) -> None:
    server.answer = BusyError("late")
    for _ in range(100):
        server.answered["embed_image"] += 1
        server.answered["embed_text"] += 1  # zero_shot answers nobody: it waits for these
        server.look(1)


def test_late_answers_are_load_while_the_processor_is_used(server: _Server) -> None:
    server.answer = BusyError("late")
    for _ in range(100):
        for stubs in server.stubs.values():
            stubs[0].cpu += 1
        server.look(1)


def test_a_model_hangs_when_work_waits_and_nothing_is_done(server: _Server) -> None:
    server.look(30)  # no matter how long it was idle without a request that waits
    server.answer = BusyError("late")
    began = server.now
    with pytest.raises(SetupError) as caught:
        server.look(100)
    assert not isinstance(caught.value, BusyError) and "hangs" in caught.value.what
    assert STALLED <= server.now - began <= 60


def test_what_an_idle_process_uses_is_no_work(server: _Server) -> None:
    server.answer = BusyError("late")
    with pytest.raises(SetupError):
        for _ in range(100):
            for stubs in server.stubs.values():
                stubs[0].cpu += 0.01  # as measured: 0.01 s in ten
            server.look(1)


@pytest.mark.parametrize("state", [psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED, "gone"])
def test_a_process_that_ended_or_stopped_is_found_whatever_the_probe_says(
    server: _Server, state: str
) -> None:
    for server.answer in (None, BusyError("late")):
        server.stubs["zero_shot"][1].state = state
        with pytest.raises(SetupError) as caught:
            server.look(1)
        assert "zero_shot" in caught.value.what


def test_a_probe_that_fails_tells_why(server: _Server) -> None:
    server.answer = SetupError("the model failed")
    with pytest.raises(SetupError) as caught:
        server.look(1)
    assert caught.value is server.answer
