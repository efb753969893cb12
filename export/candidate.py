"""The child process of the parity gate: runs an exported model on prepared inputs, far from the parent.

A damaged graph can kill the runtime with a signal; here it kills only this process. Whose fault a failure is crosses to
the parent: a fault of the model fails the gate, any other is raised as what it is.
Called as `python -m kdx.export.candidate MODEL ASKED.npz ANSWERED.npz FAULT.json`. Arrays are named `image/…` (pixels)
and `text/…` (tokens); the answers bear the same names.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError, KdxError, SetupError
from kdx.core.folders import Manifest
from kdx.runtime.exported_model import KIND, read_exported_model

Arrays = dict[str, npt.NDArray[np.generic]]


# signals by which a graph that the runtime cannot bear ends the process; others come from outside
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class CandidateFault(Exception):
    """The exported model did not answer, and it is its own fault; the text says why."""


def run_candidate(model: Path, requests: Arrays, timeout: float) -> dict[str, npt.NDArray[np.float32]]:
    """Answers by name, computed in a child process within `timeout` seconds.

    Raises CandidateFault when the model does not run or crashes the runtime; SetupError when the machine lacks a
    package, memory or time; RuntimeError with the child's traceback for a bug in kdx.
    """
    with tempfile.TemporaryDirectory(prefix="kdx-parity-") as folder:
        asked, answered, fault = (Path(folder) / name for name in ("asked.npz", "answered.npz", "fault.json"))
        np.savez(asked, **requests)  # pyright: ignore[reportArgumentType]
        command = [sys.executable, "-m", "kdx.export.candidate", *map(str, (model, asked, answered, fault))]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise SetupError(
                f"the exported model did not answer within {timeout:.0f} s",
                remedy="compare fewer images with --samples, or free the machine of other work",
            ) from None
        if fault.exists():
            error = KdxError.from_dict(json.loads(fault.read_text(encoding="utf-8")))
            if isinstance(error, DataError):  # of the file that was just written
                raise CandidateFault(error.what)
            raise error
        if done.returncode:
            raise _ended(done.returncode, done.stderr)
        with np.load(answered) as answers:
            return {name: answers[name] for name in answers.files}


def _ended(returncode: int, stderr: str) -> Exception:
    """What it means that the child ended without an answer and without a word."""
    number = signal.Signals(-returncode) if returncode < 0 else None
    if "bad_alloc" in stderr or number == signal.SIGKILL:  # the kernel's answer when memory is used up
        return SetupError(
            "the memory did not suffice to run the exported model",
            remedy="free memory, or compare fewer images with --samples",
        )
    if number is not None and number in CRASHES:
        return CandidateFault(f"was killed by {number.name}")
    if number is not None:
        return SetupError(
            f"the process that ran the exported model was ended by {number.name}", remedy="run it again"
        )
    return RuntimeError(f"the gate's child process ended with exit code {returncode}:\n{stderr}")


def _answer(model: Path, asked: Path, answered: Path) -> None:
    unsealed = Manifest(KIND, schema=1, created="", digest={}, provenance={})
    exported = read_exported_model(model, unsealed)
    # A file has the same numbers wherever it runs, and here they can be seen: a runtime refuses to serve it.
    exported = replace(exported, target=exported.format.targets[0])
    answers: dict[str, npt.NDArray[np.float32]] = {}
    with exported.open() as encoder, np.load(asked) as requests:
        for name in requests.files:
            encode = encoder.encode_image if name.startswith("image/") else encoder.encode_text
            answers[name] = encode(requests[name])
    np.savez(answered, **answers)  # pyright: ignore[reportArgumentType]


def _main(model: Path, asked: Path, answered: Path, fault: Path) -> int:
    try:
        _answer(model, asked, answered)
        return 0
    except MemoryError:
        error: KdxError = SetupError(
            "the memory did not suffice to run the exported model", remedy="free memory"
        )
    except OSError as caught:
        answered.unlink(missing_ok=True)  # on a full disk it makes room for the fault
        error = SetupError(
            f"the gate cannot keep what the exported model answers: {caught.strerror}",
            where=answered.parent,
            remedy="free space, or name another folder for temporary files by TMPDIR",
        )
    except KdxError as caught:
        error = caught
    fault.write_text(json.dumps(error.to_dict()), encoding="utf-8")
    return 1


if __name__ == "__main__":
    sys.exit(_main(*map(Path, sys.argv[1:5])))
