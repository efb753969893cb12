"""The child process of the parity gate: runs an exported model on prepared inputs, far from the parent.

A damaged graph can kill the runtime with a signal; here it kills only this process.
Called as `python -m kdx.export.candidate MODEL REQUESTS.npz ANSWERS.npz`. Arrays are named `image/…` (pixels)
and `text/…` (tokens); the answers bear the same names.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import KdxError
from kdx.core.folders import Manifest, read_json
from kdx.runtime.exported_model import KIND, ExportedModel
from kdx.runtime.onnx import OnnxEncoder

Arrays = dict[str, npt.NDArray[np.generic]]


class CandidateFault(Exception):
    """The candidate did not answer; the text says why."""


def run_candidate(model: Path, requests: Arrays, timeout: float) -> dict[str, npt.NDArray[np.float32]]:
    """Answers by name, computed in a child process. Raises CandidateFault when it fails, dies or hangs."""
    with tempfile.TemporaryDirectory(prefix="kdx-parity-") as folder:
        asked, answered = Path(folder) / "requests.npz", Path(folder) / "answers.npz"
        np.savez(asked, **requests)  # pyright: ignore[reportArgumentType]
        command = [sys.executable, "-m", "kdx.export.candidate", str(model), str(asked), str(answered)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise CandidateFault(f"did not answer within {timeout:.0f} s") from None
        if done.returncode < 0:
            raise CandidateFault(f"was killed by {signal.Signals(-done.returncode).name}")
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise CandidateFault(lines[-1] if lines else f"ended with exit code {done.returncode}")
        with np.load(answered) as answers:
            return {name: answers[name] for name in answers.files}


def _answer(model: Path, asked: Path, answered: Path) -> None:
    config = read_json(model / "config.json")
    unsealed = Manifest(KIND, schema=1, created="", digest={}, provenance={})
    exported = ExportedModel(model, unsealed, config["format"], EncoderSpec.from_dict(config["spec"]))
    answers: dict[str, npt.NDArray[np.float32]] = {}
    with OnnxEncoder(exported) as encoder, np.load(asked) as requests:
        for name in requests.files:
            encode = encoder.encode_image if name.startswith("image/") else encoder.encode_text
            answers[name] = encode(requests[name])
    np.savez(answered, **answers)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    try:
        _answer(*map(Path, sys.argv[1:4]))
    except KdxError as fault:
        print(fault, file=sys.stderr)
        sys.exit(1)
