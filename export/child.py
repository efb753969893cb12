"""Work in a child process, which a library may crash: whose fault a failure is crosses to the parent.

The child's module ends in `sys.exit(answer_parent(work, fault, …))`; `fault` is the last of its arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from kdx.core.bound_process import start_bound
from kdx.core.errors import KdxError, SetupError
from kdx.core.scratch import scratch_folder

# signals by which a library that cannot bear its input ends the process; others come from outside
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


OUT_OF_MEMORY = re.compile("bad_alloc|Failed to allocate memory")  # the second in ONNX Runtime's words


class ChildCrash(Exception):
    """The child was killed by a signal of its own making; the text names it."""


class Child:
    """`python -m module ARGUMENTS FAULT`, from now until it is left, which ends it, or until this process ends.

    doing: what it does, as in "run the exported model". lighter: what makes it need less time and memory.
    """

    def __init__(self, module: str, arguments: Sequence[object], *, doing: str, lighter: str) -> None:
        self._started = time.monotonic()
        self._doing, self._lighter = doing, lighter
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            self._fault, self._stderr = folder / "fault.json", folder / "stderr"
            command = [sys.executable, "-m", module, *map(str, (*arguments, self._fault))]
            variables = {**os.environ, "TMPDIR": str(folder)}  # what a killed child leaves there goes too
            with self._stderr.open("wb") as stderr:  # a pipe would fill, and nobody reads it meanwhile
                self._process = start_bound(
                    command, signal.SIGKILL, stdout=subprocess.DEVNULL, stderr=stderr, env=variables
                )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._stack.close()

    def wait(self, timeout: float) -> None:
        """Until its end, which must come within `timeout` seconds of its start.

        Raises the KdxError that the child met; ChildCrash; SetupError when the machine lacks memory or time;
        RuntimeError with the child's traceback for a bug in kdx.
        """
        try:
            self._process.wait(max(0.0, self._started + timeout - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise SetupError(
                f"{timeout:.0f} s did not suffice to {self._doing}",
                remedy=f"{self._lighter}, or free the machine of other work",
            ) from None
        if self._fault.exists():
            raise KdxError.from_dict(json.loads(self._fault.read_text(encoding="utf-8")))
        if self._process.returncode:
            stderr = self._stderr.read_text(encoding="utf-8", errors="replace")
            raise _ended(self._process.returncode, stderr, self._doing, self._lighter)


def answer_parent(work: Callable[[], None], fault: Path, *, doing: str) -> int:
    """The child's exit code. What `work` raises goes into `fault`, unless it is a bug: that ends in a traceback."""
    try:
        work()
        return 0
    except MemoryError:
        error: KdxError = SetupError(f"the memory did not suffice to {doing}", remedy="free memory")
    except OSError as caught:
        error = SetupError(
            f"what is needed to {doing} cannot be kept: {caught.strerror}",
            where=caught.filename,
            remedy="free space, or name another folder for temporary files by TMPDIR",
        )
    except KdxError as caught:
        error = caught
    fault.write_text(json.dumps(error.to_dict()), encoding="utf-8")
    return 1


def limit_memory(limit: int) -> None:
    """bytes of address space that this process may take; beyond them an allocation fails instead of the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _ended(returncode: int, stderr: str, doing: str, lighter: str) -> Exception:
    """What it means that the child ended without a word."""
    number = signal.Signals(-returncode) if returncode < 0 else None
    if number == signal.SIGKILL or OUT_OF_MEMORY.search(stderr):  # the kernel's answer when memory is used up
        return SetupError(f"the memory did not suffice to {doing}", remedy=f"free memory, or {lighter}")
    if number is not None and number in CRASHES:
        return ChildCrash(number.name)
    if number is not None:
        return SetupError(
            f"the process that was to {doing} was ended by {number.name}", remedy="run it again"
        )
    return RuntimeError(f"the process that was to {doing} ended with exit code {returncode}:\n{stderr}")
