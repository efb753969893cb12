"""Which of ONNX Runtime's optimizers a file cannot bear: found by opening it in a child process.

ONNX Runtime 1.32 dies by SIGSEGV while it optimizes some fp16 transformers: the crash needs NchwcTransformer and
MatmulTransposeFusion together. Its AttentionFusion takes the attention of MobileCLIP's image towers (FastViT) for fp32
and then finds fp16. Whether a graph has what they stumble over is best asked of ONNX Runtime itself: a file that opens
needs nothing disabled.
Called as `python -m kdx.export.session_trial FILE OPTIMIZER… FAULT` (export/child.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from kdx.core.errors import DataError, GateError
from kdx.runtime.onnx import import_onnxruntime, open_session

from .child import Child, ChildCrash, answer_parent

# in the order in which they are tried; NchwcTransformer last, since convolutions need it
CANDIDATES = (
    (),
    ("MatmulTransposeFusion",),
    ("AttentionFusion",),
    ("MatmulTransposeFusion", "AttentionFusion"),
    ("NchwcTransformer",),
    ("MatmulTransposeFusion", "NchwcTransformer"),
    ("MatmulTransposeFusion", "AttentionFusion", "NchwcTransformer"),
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
    with Child(
        "kdx.export.session_trial",
        [path, *optimizers],
        doing=_doing(path),
        lighter="export it with --precision fp32",
    ) as child:
        try:
            child.wait(TIMEOUT)
        except ChildCrash as crash:
            return f"it is killed by {crash}"
        except DataError as error:
            return error.what
    return ""


def _doing(path: Path) -> str:
    return f"open the exported {path.name} in ONNX Runtime"


def _main(path: Path, optimizers: list[str], fault: Path) -> int:
    def open_it() -> None:
        open_session(import_onnxruntime(), path, num_threads=1, disabled_optimizers=optimizers)

    return answer_parent(open_it, fault, doing=_doing(path))


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:-1], Path(sys.argv[-1])))
