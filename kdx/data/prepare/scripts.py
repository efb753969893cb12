"""Running a script of this folder in the environment of img2dataset, so that nothing of it outlives kdx."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.bound_process import start_bound
from kdx.core.errors import DataError, SetupError
from kdx.core.progress import Progress, silent
from kdx.core.workspace import FULL

FOLDER = Path(__file__).parent


@contextlib.contextmanager
def running(python: Path, script: str, job: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Yields the process, which has got its job; what it writes is in its stdout. At the end all of its group end."""
    process = start_bound(
        [str(python), "-I", str(FOLDER / script)],
        signal.SIGKILL,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for kdx alone, which then ends them
        env=_environment(python),
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it has ended, and says why
            process.stdin.write(json.dumps(job).encode())
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ask(
    python: Path, script: str, job: dict[str, Any], where: Path, progress: Progress = silent
) -> dict[str, Any]:
    """The answer of a script that answers in lines of JSON.

    where: what it reads; DataError says so if it cannot. SetupError: what it writes, job["out"], has no space.
    """
    answer: dict[str, Any] | None = None
    line = b""
    with running(python, script, job) as process:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if answer is not None and "done" in answer:
                progress(answer["done"], answer["total"])
        code = process.wait()
    if answer is not None and answer.get("errno") in FULL:
        raise SetupError(
            f"cannot be written: {os.strerror(answer['errno'])}",
            where=job.get("out", where),
            remedy="free space, or choose another path",
        )
    if answer is not None and "error" in answer:
        raise DataError(f"cannot be read: {answer['error']}", where=where, remedy="make or copy it again")
    if code or answer is None:
        said = line.decode(errors="replace").strip() or f"exit code {code}"
        raise SetupError(f"{script} of kdx has ended: {said}", where=where, remedy="report it to kdx")
    return answer


def _environment(python: Path) -> dict[str, str]:
    """Without packages from elsewhere, progress bars, Ray's reports and albumentations' question for newer versions."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYSPARK_PYTHON": str(python),
    }
