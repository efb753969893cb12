"""Which of ONNX Runtime's optimizers a file cannot bear: found by opening it in a child process.

ONNX Runtime 1.32 dies by SIGSEGV while it optimizes some fp16 transformers. The crash needs NchwcTransformer and
MatmulTransposeFusion together, and whether a graph has what they stumble over is best asked of ONNX Runtime itself: a
file that opens needs nothing disabled.
Called as `python -m kdx.export.session_trial FILE OPTIMIZER…`; the answer is its exit code, and a fault on stdout.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from kdx.core.errors import GateError, KdxError, SetupError
from kdx.runtime.onnx import import_onnxruntime, open_session

from .child import CRASHES

# in the order in which they are tried; MatmulTransposeFusion first, since convolutions need the other one
CANDIDATES = (
    (),
    ("MatmulTransposeFusion",),
    ("NchwcTransformer",),
    ("MatmulTransposeFusion", "NchwcTransformer"),
)
TIMEOUT = 600.0  # seconds to open a file; a model above 2 GB takes some ten


def find_disabled_optimizers(path: Path) -> list[str]:
    """The optimizers to disable so that ONNX Runtime opens this file: usually none.

    Raises GateError if it opens with none of CANDIDATES disabled, SetupError if the machine cannot try.
    """
    faults: list[str] = []
    for optimizers in CANDIDATES:
        fault = _try(path, optimizers)
        if not fault:
            return list(optimizers)
        faults.append(fault)
    raise GateError(
        f"ONNX Runtime does not open the exported {path.name}: {faults[0]}",
        remedy="export it with --precision fp32",
    )


def _try(path: Path, optimizers: tuple[str, ...]) -> str:
    """Empty if the file opens, else what happened."""
    command = [sys.executable, "-m", "kdx.export.session_trial", str(path), *optimizers]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"ONNX Runtime did not open the exported {path.name} within {TIMEOUT:.0f} s",
            remedy="free the machine of other work",
        ) from None
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        number = signal.Signals(-done.returncode)
        if number in CRASHES:
            return f"it is killed by {number.name}"
        raise SetupError(
            f"the process that opened the exported {path.name} was ended by {number.name}",
            remedy="free memory, and run it again",
        )
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"the trial of {path.name} ended with code {done.returncode}:\n{done.stderr}")
    error = KdxError.from_dict(json.loads(done.stdout))
    if isinstance(error, SetupError):
        raise error
    return error.what


def _main(path: Path, optimizers: list[str]) -> int:
    try:
        open_session(import_onnxruntime(), path, num_threads=1, disabled_optimizers=optimizers)
    except KdxError as error:
        print(json.dumps(error.to_dict()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
