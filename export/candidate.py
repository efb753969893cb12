"""The child process of the parity gate: runs an exported model on prepared inputs, far from the parent.

A damaged graph can kill the runtime with a signal; here it kills only this process. Whose fault a failure is crosses to
the parent: a fault of the model fails the gate, any other is raised as what it is.
Called as `python -m kdx.export.candidate MODEL ASKED.npz ANSWERED.npz THREADS FAULT.json`. Arrays are named `image/…`
(pixels) and `text/…` (tokens); the answers bear the same names.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError
from kdx.core.folders import Manifest
from kdx.core.provenance import cpu_count
from kdx.core.scratch import scratch_folder
from kdx.runtime.exported_model import KIND, read_exported_model

from .child import Child, ChildCrash, answer_parent

Arrays = dict[str, npt.NDArray[np.generic]]

DOING = "run the exported model"


class CandidateFault(Exception):
    """The exported model did not answer, and it is its own fault; the text says why."""


class Candidate:
    """The child process, as a context manager: it starts to answer at once, so that the reference can work meanwhile.

    requests: by name. num_threads: for the exported model, by default one for each core. Leaving ends it.
    """

    def __init__(self, model: Path, requests: Arrays, *, num_threads: int | None = None) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            asked, self._answered = folder / "asked.npz", folder / "answered.npz"
            np.savez(asked, **requests)  # pyright: ignore[reportArgumentType]
            arguments = (model, asked, self._answered, num_threads or cpu_count())
            lighter = "compare fewer images with --samples"
            self._child = stack.enter_context(
                Child("kdx.export.candidate", arguments, doing=DOING, lighter=lighter)
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answers(self, timeout: float) -> dict[str, npt.NDArray[np.float32]]:
        """Answers by name, when they are there; `timeout` in seconds since the start.

        Raises CandidateFault when the model does not run or crashes the runtime; SetupError when the machine lacks a
        package, memory or time; RuntimeError with the child's traceback for a bug in kdx.
        """
        try:
            self._child.wait(timeout)
        except DataError as error:  # of the file that was just written
            raise CandidateFault(error.what) from None
        except ChildCrash as crash:
            raise CandidateFault(f"was killed by {crash}") from None
        with np.load(self._answered) as answers:
            return {name: answers[name] for name in answers.files}


def run_candidate(model: Path, requests: Arrays, timeout: float) -> dict[str, npt.NDArray[np.float32]]:
    """The answers of a Candidate within `timeout` seconds; raises what its `answers` raises."""
    with Candidate(model, requests) as candidate:
        return candidate.answers(timeout)


def _answer(model: Path, asked: Path, answered: Path, num_threads: int) -> None:
    unsealed = Manifest(KIND, schema=1, created="", digest={}, provenance={})
    exported = read_exported_model(model, unsealed)
    # A file has the same numbers wherever it runs, and here they can be seen: a runtime refuses to serve it.
    exported = replace(exported, target=exported.format.targets[0])
    answers: dict[str, npt.NDArray[np.float32]] = {}
    with exported.open(num_threads=num_threads) as encoder, np.load(asked) as requests:
        for name in requests.files:
            encode = encoder.encode_image if name.startswith("image/") else encoder.encode_text
            answers[name] = encode(requests[name])
    try:
        np.savez(answered, **answers)  # pyright: ignore[reportArgumentType]
    except OSError:
        answered.unlink(missing_ok=True)  # on a full disk it makes room for the fault
        raise


if __name__ == "__main__":
    MODEL, ASKED, ANSWERED, THREADS, FAULT = sys.argv[1:6]
    sys.exit(
        answer_parent(
            lambda: _answer(Path(MODEL), Path(ASKED), Path(ANSWERED), int(THREADS)), Path(FAULT), doing=DOING
        )
    )
