"""Facts of export/child.py: what the end of a child process means to its parent."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from kdx.core.errors import DataError, SetupError
from kdx.core.scratch import scratch_folder
from kdx.export.child import Child, ChildCrash

WORK = {
    "answers": "pass",
    "names_a_fault": "raise DataError('is bad', where='here', remedy='repair it')",
    "has_a_bug": "1 / 0",
    "crashes": "os.kill(os.getpid(), signal.SIGSEGV)",
    "is_ended": "os.kill(os.getpid(), signal.SIGTERM)",
    "takes_memory": "limit_memory(2 * 2**30); bytearray(4 * 2**30)",
    "cannot_allocate": "raise RuntimeError('Failed to allocate memory for requested buffer of size 1')",
    "fills_the_disk": "raise OSError(28, 'No space left on device', 'file')",
    "sleeps": "time.sleep(60)",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def run(work: str, timeout: float = 60) -> None:
        (tmp_path / f"child_that_{work}.py").write_text(
            "import os, signal, sys, time\n"
            "from pathlib import Path\n"
            "from kdx.core.errors import DataError\n"
            "from kdx.export.child import answer_parent, limit_memory\n"
            f"def work():\n    {WORK[work]}\n"
            "sys.exit(answer_parent(work, Path(sys.argv[1]), doing='work'))\n"
        )
        with Child(f"child_that_{work}", [], doing="work", lighter="do less") as child:
            child.wait(timeout)

    return run


def test_a_child_that_ends_well_says_nothing(run) -> None:
    run("answers")


def test_whose_fault_it_is_crosses_the_process(run) -> None:
    with pytest.raises(DataError) as fault:
        run("names_a_fault")
    assert (fault.value.where, fault.value.remedy) == ("here", "repair it")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run("has_a_bug")
    with pytest.raises(ChildCrash, match="SIGSEGV"):
        run("crashes")


@pytest.mark.parametrize(
    ("work", "timeout"),
    [("is_ended", 60), ("takes_memory", 60), ("cannot_allocate", 60), ("fills_the_disk", 60), ("sleeps", 1)],
)
def test_what_the_machine_lacks_is_its_fault(run, work: str, timeout: float) -> None:
    with pytest.raises(SetupError):
        run(work, timeout)


def test_a_killed_parent_takes_its_child_along_and_the_next_one_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it found before
    (tmp_path / "child_that_sleeps.py").write_text("import time\ntime.sleep(60)\n")
    script = (
        "from kdx.export.child import Child\n"
        "with Child('child_that_sleeps', [], doing='work', lighter='do less') as child:\n"
        "    print(child._process.pid, flush=True)\n"
        "    child.wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive
    assert list(tmp_path.glob("kdx-*"))
    with scratch_folder():
        pass
    assert not list(tmp_path.glob("kdx-*"))
