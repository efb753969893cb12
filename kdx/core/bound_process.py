"""Child processes that end when this one ends, however it ends: SIGKILL leaves it no moment to stop them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(
    None
).prctl  # looked up here: between fork and exec another thread may hold the linker's lock


def start_bound(command: Sequence[str], end: signal.Signals, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a child that gets the signal `end` when this process ends. options: further ones of Popen, of bytes.

    Linux sends that signal when the *thread* that started the child ends. So a thread of its own starts it, and stays
    until the child has ended. Raises what Popen raises.
    """
    outcome: queue.SimpleQueue[subprocess.Popen[bytes] | Exception] = queue.SimpleQueue()
    parent = os.getpid()

    def bind() -> None:
        _prctl(PR_SET_PDEATHSIG, end)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    def start_and_stay() -> None:
        try:
            process: subprocess.Popen[Any] = subprocess.Popen(command, preexec_fn=bind, **options)
        except Exception as error:
            outcome.put(error)
            return
        outcome.put(process)
        with contextlib.suppress(ChildProcessError):  # whoever started it has seen its end already
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    threading.Thread(target=start_and_stay, name=f"kdx keeps {command[0]}", daemon=True).start()
    started = outcome.get()
    if isinstance(started, Exception):
        raise started
    return started
