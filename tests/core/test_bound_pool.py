"""Facts of kdx/core/bound_pool.py: a pool's processes end with what uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kdx.core.bound_pool import bound_pool

SCRIPT = """
import time
import psutil
from kdx.core.bound_pool import bound_pool
with bound_pool(2) as pool:
    waiting = [pool.submit(time.sleep, 60) for _ in range(2)]
    while len(psutil.Process().children()) < 3:  # two, and multiprocessing's tracker
        time.sleep(0.01)
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    time.sleep(60)
"""


UNGUARDED = """
from kdx.core.bound_pool import bound_pool
print("begins")
with bound_pool(2) as pool:
    print(sum(pool.map(abs, [-1, -2, -3])))
"""


def _remember(value: int) -> None:
    os.environ["KDX_TEST_REMEMBERED"] = str(value)


def _remembered(add: int) -> int:
    return int(os.environ["KDX_TEST_REMEMBERED"]) + add


def test_each_process_is_prepared_and_what_was_submitted_is_finished() -> None:
    with bound_pool(1, _remember, (40,)) as pool:
        waiting = pool.submit(time.sleep, 0.1)
        answer = pool.submit(_remembered, 2)
        assert answer.result() == 42
    assert waiting.done() and not waiting.cancelled()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_does_not_wait_for_the_calls_that_run(kind: type[BaseException]) -> None:
    started = time.monotonic()
    processes: list[psutil.Process] = []
    with pytest.raises(kind), bound_pool(1) as pool:
        processes.append(psutil.Process(pool.submit(os.getpid).result()))
        pool.submit(time.sleep, 60)
        raise kind
    assert not processes[0].is_running() and time.monotonic() - started < 50


def test_its_processes_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 3
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_script_that_uses_a_pool_is_not_run_again_in_its_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    ran = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    assert ran.stdout == "begins\n6\n" and ran.stderr == ""
