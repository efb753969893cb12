"""Facts of kdx/core/bound_process.py: a child ends with the process that started it, and not before."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import psutil
import pytest

from kdx.core.bound_process import start_bound

SLEEP = ["sleep", "60"]


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    script = (
        "import signal, time\n"
        "from kdx.core.bound_process import start_bound\n"
        f"print(start_bound({SLEEP}, signal.SIGTERM).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[subprocess.Popen[bytes]] = []
    starter = threading.Thread(target=lambda: started.append(start_bound(SLEEP, signal.SIGKILL)))
    starter.start()
    starter.join()
    with started[0] as child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)  # the signal would come at once
        child.kill()
    assert child.returncode == -signal.SIGKILL


def test_the_thread_that_keeps_a_child_ends_with_it() -> None:
    before = threading.enumerate()
    with start_bound(["true"], signal.SIGKILL) as child:
        assert child.wait(20) == 0
    for thread in set(threading.enumerate()) - set(before):
        thread.join(20)
        assert not thread.is_alive()


def test_what_cannot_be_started_is_raised_where_it_was_asked_for() -> None:
    with pytest.raises(FileNotFoundError):
        start_bound(["/nowhere/at-all"], signal.SIGKILL)
