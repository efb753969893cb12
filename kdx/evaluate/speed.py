"""How fast a model encodes, and how much memory that takes: one fresh process a model, one thread.

A process of its own, because idle threads of one runtime slow every other in the same process (ONNX Runtime's were
measured to halve it), and because peak memory belongs to a process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Encoder, EncoderSpec, FloatArray
from kdx.core.errors import KdxError, SetupError
from kdx.core.folders import MANIFEST, Manifest, read_manifest
from kdx.runtime.exported_model import KIND, open_exported_model, read_exported_model

# read when a library that computes is loaded
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TURNS = 15  # calls that are timed, where one call takes no longer than a second
BRIEF = 3.0  # seconds a case in which no more are begun


@dataclass(frozen=True)
class Case:
    """One shape of batch: images, or texts of `length` tokens (cut to what the model takes)."""

    batch: int
    length: int | None = None

    @property
    def name(self) -> str:
        """For example `image×8` or `text×1, 12 tokens`."""
        return f"image×{self.batch}" if self.length is None else f"text×{self.batch}, {self.length} tokens"

    def inputs(self, spec: EncoderSpec) -> npt.NDArray[Any]:
        """The same for all models of a size: noise as pixels, arbitrary pieces as tokens."""
        random = np.random.default_rng(self.batch)
        if self.length is None:
            return random.standard_normal((self.batch, 3, spec.image_size, spec.image_size), dtype=np.float32)
        length = min(self.length, spec.context_length)
        tokens = random.integers(1, spec.vocab_size - 2, (self.batch, length), dtype=np.int32)
        tokens[:, 0], tokens[:, -1] = spec.vocab_size - 2, spec.vocab_size - 1
        return tokens


class SpeedProcess:
    """A fresh process that opens one model and encodes on one thread when it is told to.

    path: a checkpoint, a run, or an exported model, sealed or not yet. Raises what opening and encoding it raises, and
    SetupError where the process is killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(str(path), theirs), daemon=True)
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)  # the child takes them over as it starts
        try:
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()

    def milliseconds(self, case: Case) -> float:
        """Of the second of two calls: the first takes the caches back that other processes have filled."""
        return self._ask("milliseconds", case)

    def embeddings(self, case: Case) -> FloatArray:
        """What the model answers to the case's inputs: float32 [B, D]."""
        return self._ask("embeddings", case)

    def peak_mib(self) -> float:
        """MiB that the process has held at its peak, Python and libraries included."""
        return self._ask("peak_mib", None)

    def close(self) -> None:
        self._connection.close()  # at which the child ends
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, case: Case | None) -> Any:
        try:
            self._connection.send((what, case))
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise SetupError(
                "the process that measures speed was killed", where=self._path, remedy="free memory"
            ) from None
        if isinstance(answer, dict):
            raise KdxError.from_dict(answer)
        return answer


def measure_speed(path: Path, cases: Sequence[Case]) -> dict[str, Any]:
    """A brief measurement: by the case's name `p50` and `min` in ms for the whole batch, `peak_mib`, `load_average`."""
    measured: dict[str, Any] = {}
    with SpeedProcess(path) as process:
        for case in cases:
            process.embeddings(case)  # compiles what is compiled for a new shape
            started, times = time.monotonic(), [process.milliseconds(case)]
            while len(times) < TURNS and time.monotonic() - started < BRIEF:
                times.append(process.milliseconds(case))
            measured[case.name] = {"p50": float(np.median(times)), "min": min(times)}
        peak = process.peak_mib()
    return {"threads": 1, "ms": measured, "peak_mib": peak, "load_average": os.getloadavg()[0]}


def _serve(path: str, connection: Connection) -> None:
    """The process's life: a model, then one answer for each question."""
    try:
        encoder: Encoder | None = None
        while True:
            what, case = connection.recv()
            try:
                encoder = encoder or _open(Path(path))
                connection.send(_answer(encoder, what, case))
            except KdxError as error:
                connection.send(error.to_dict())
    except (EOFError, ConnectionError):  # whoever asked has gone
        return


def _answer(encoder: Encoder, what: str, case: Case | None) -> Any:
    if case is None:
        return peak_of_this_process()
    inputs = case.inputs(encoder.spec)
    encode: Callable[[Any], FloatArray] = encoder.encode_image if case.length is None else encoder.encode_text
    embeddings = encode(inputs)
    if what == "embeddings":
        return embeddings
    started = time.perf_counter()
    encode(inputs)
    return (time.perf_counter() - started) * 1000


def _open(path: Path) -> Encoder:
    if not (path / MANIFEST).exists():
        unsealed = Manifest(KIND, schema=1, created="", digest={}, provenance={})
        return read_exported_model(path, unsealed).open(num_threads=1)
    if read_manifest(path).kind == KIND:
        return open_exported_model(path).open(num_threads=1)
    from kdx.runtime.torch import TorchEncoder

    return TorchEncoder.open(path)


def peak_of_this_process() -> float:
    """MiB. Not getrusage: its maximum survives exec, so a child would begin with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024
