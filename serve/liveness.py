"""Telling a dead server from a busy one.

A probe that is late proves nothing: it waits for the work of others. A dead model is known by its process, or by work
that waits while nothing at all is done.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from kdx.core.errors import SetupError
from kdx.runtime.triton import BusyError, TritonConnection

from .probe import probe
from .served_model import ServedModel

PROBE_TIMEOUT = 5.0  # seconds; a killed stub is looked for after each probe
STALLED = 20.0  # seconds in which a model did nothing while a probe waited
IDLE = 0.005  # share of one core; a stub without work uses a tenth of that


class Stub(Protocol):
    """What is used of psutil.Process: the process that runs one instance of a model."""

    def status(self) -> str: ...
    def cpu_times(self) -> tuple[float, ...]: ...


@dataclass
class _Progress:
    """What a model had done when it was last looked at: requests answered, and seconds of its stubs on a processor."""

    answered: int
    cpu: float
    at: float


class Watch:
    """Looks at one running server, again and again. stubs: the processes of each model that runs in Python."""

    def __init__(
        self,
        connection: TritonConnection,
        models: Sequence[ServedModel],
        stubs: Mapping[str, Iterable[Stub]],
    ) -> None:
        self._connection = connection
        self._asks = {model.name: model.asks for model in models}
        self._stubs = {model: list(own) for model, own in stubs.items()}
        self._late: dict[
            str, _Progress
        ] = {}  # models whose last probe was late, and what they had done when last seen to get on
        self._turns = itertools.cycle(models)

    def look(self) -> None:
        """Probes one model, the next one at the next call. Raises SetupError if a model is dead.

        Dead is a model with a process that has ended or was stopped; one that fails at the probe; or one that leaves
        the probe waiting while neither its requests nor its processes get on for STALLED seconds.
        """
        looked_at = next(self._turns)
        model = looked_at.name
        self._check_stubs()
        try:
            probe(self._connection, [looked_at], timeout=PROBE_TIMEOUT)
        except BusyError as error:
            self._check_stubs()
            now = self._measure(model)
            then = self._late.setdefault(model, now)
            if now.answered != then.answered or now.cpu - then.cpu > IDLE * (now.at - then.at):
                self._late[model] = now
            elif now.at - then.at >= STALLED:
                raise SetupError(
                    f"{model} hangs: work waits, and nothing was done for {now.at - then.at:.0f} s",
                    where=error.where,
                    remedy="see the server's log, and start it again",
                ) from None
        except SetupError:
            self._check_stubs()  # says more than the failure that it causes
            raise
        else:
            self._late.pop(model, None)

    def _check_stubs(self) -> None:
        for model, stubs in self._stubs.items():
            for stub in stubs:
                try:
                    status = stub.status()
                except psutil.NoSuchProcess:
                    status = psutil.STATUS_DEAD
                # Triton 2.51 neither starts an ended process again nor takes it from under its name
                if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED):
                    raise SetupError(
                        f"a process of {model} has {'stopped' if status == psutil.STATUS_STOPPED else 'ended'}",
                        where=self._connection.url,
                        remedy="see the server's log, and start it again",
                    )

    def _measure(self, model: str) -> _Progress:
        answered = self._connection.count_answered()
        cpu = 0.0
        for stub in self._stubs.get(model, ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                user, system, *_ = stub.cpu_times()
                cpu += user + system
        return _Progress(sum(answered.get(each, 0) for each in self._asked_by(model)), cpu, time.monotonic())

    def _asked_by(self, model: str) -> set[str]:
        """The model and all that it asks: while those get on, it waits and does not hang."""
        return {model}.union(*(self._asked_by(each) for each in self._asks[model]))
