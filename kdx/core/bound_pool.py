"""A pool of processes that ends with what uses it: at once on an error or Ctrl-C, and also when this process is killed.

The pools of concurrent.futures wait for the calls that run, and their processes outlive a parent that is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def bound_pool(
    count: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Generator[ProcessPoolExecutor]:
    """Yields a pool of `count` fresh processes, for a block in which they are all that is waited for.

    An exception that leaves the block, KeyboardInterrupt too, ends the processes in the middle of their calls; without
    one, the calls that were submitted are finished. A process that is killed breaks the pool, as usual
    (BrokenProcessPool).

    What is submitted must be a function of a module: a script that calls kdx is not run again in each process, so it
    needs no `if __name__ == "__main__"`.
    """
    spawn = _Spawn()  # a fork would copy a GPU's context, and locks that other threads hold
    theirs, ours = spawn.Pipe(duplex=False)  # `ours` is closed by us, or by the system when we are killed
    pool = ProcessPoolExecutor(
        count, mp_context=spawn, initializer=_begin, initargs=(theirs, initializer, initargs)
    )
    with theirs, ours:
        try:
            yield pool
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _without_script():
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class _Spawn(SpawnContext):
    Process = _Process


class _ForkedProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _without_script():
            return ForkServerProcess._Popen(process_obj)  # type: ignore[attr-defined]


class ForkServer(ForkServerContext):
    """Processes forked from a fresh one, which has imported what they need; they do not run the caller's script."""

    Process = _ForkedProcess


@contextlib.contextmanager
def _without_script() -> Generator[None]:
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def bind_to(parent: Connection) -> None:
    """Ends this process when the other end of the pipe is closed, which the system does when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _begin(parent: Connection, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    bind_to(parent)
    if initializer is not None:
        initializer(*initargs)


def _end_with(parent: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        parent.recv()  # never comes: the pipe is closed
    os._exit(1)
