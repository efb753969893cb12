"""How fast a model encodes, and how much memory that takes: one fresh process a model, one thread.

A process of its own, because idle threads of one runtime slow every other in the same process (ONNX Runtime's were
measured to halve it), and because peak memory belongs to a process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Encoder, EncoderSpec, FloatArray
from kdx.core.errors import KdxError, SetupError
from kdx.core.folders import MANIFEST, Manifest, read_manifest
from kdx.core.progress import Progress, silent
from kdx.core.provenance import cpu_name
from kdx.runtime.exported_model import KIND, open_exported_model, read_exported_model

# read when a library that computes is loaded
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
BATCHES = (1, 32)
TEXT_LENGTH = 12  # tokens, of a short caption
SECONDS, MAX_SAMPLES = 2.0, 100  # of a brief measurement: in all, and of a case
LONG = 1000.0  # ms of a call beside which a cold cache counts for nothing


@dataclass(frozen=True)
class Case:
    """One shape of batch: images, or texts of `length` tokens (cut or padded to what the model takes)."""

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
        shape = self.batch, taken_length(spec, self.length)
        tokens = random.integers(1, spec.vocab_size - 2, shape, dtype=np.int32)
        tokens[:, 0], tokens[:, -1] = spec.vocab_size - 2, spec.vocab_size - 1
        return tokens


def taken_length(spec: EncoderSpec, length: int = TEXT_LENGTH) -> int:
    """What a text of so many tokens is cut or padded to: of some models all texts have one length."""
    return max(spec.min_length, min(length, spec.context_length))


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started meanwhile compute on one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
        with one_thread():
            self._process.start()
        theirs.close()

    def milliseconds(self, case: Case) -> float:
        """Of the second of two calls: the first takes the caches back that other processes have filled. Of a call that
        takes longer than a second, the first.
        """
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


@dataclass
class Timing:
    """What one process took for one case: the milliseconds of each call, and the seconds spent on all of it."""

    samples: list[float] = field(default_factory=list)
    spent: float = 0.0

    def part_done(self, seconds: float, min_samples: int, max_samples: int) -> float:
        """0 … 1: of so many seconds and samples; max_samples are enough in any case."""
        count = len(self.samples)
        return min(1.0, max(count / max_samples, min(self.spent / seconds, count / min_samples)))

    def summary(self) -> dict[str, float]:
        """Milliseconds of the whole batch. p50, p95: nearest rank, values that were measured."""
        p50, p95 = (float(np.percentile(self.samples, rank, method="inverted_cdf")) for rank in (50, 95))
        return {"p50": p50, "p95": p95, "min": min(self.samples), "num_samples": len(self.samples)}


def take_turns(
    processes: Sequence[SpeedProcess],
    cases: Sequence[Case],
    *,
    seconds: float,
    min_samples: int = 1,
    max_samples: int = 1_000_000,
    progress: Progress = silent,
) -> list[dict[Case, Timing]]:
    """Each process's times of each case. Only one computes at a time; next is always the one that has had least.

    So all get the same time, a busy moment of the machine falls on all, and small batches get the more samples.
    seconds: of each process. min_samples, max_samples: of each case; the former are taken however long it takes.
    """
    share = seconds / len(cases)
    timings = [{case: Timing() for case in cases} for _ in processes]
    waiting = [(process, case, timings[row][case]) for row, process in enumerate(processes) for case in cases]
    for process, case, _ in waiting:
        process.embeddings(case)  # compiles what is compiled for a new shape
    total = len(waiting)
    while waiting:
        process, case, timing = min(waiting, key=lambda turn: turn[2].spent)
        before = time.monotonic()
        timing.samples.append(process.milliseconds(case))
        timing.spent += time.monotonic() - before
        parts = [timing.part_done(share, min_samples, max_samples) for _, _, timing in waiting]
        progress(round(100 * (total - len(waiting) + sum(parts)) / total), 100)
        waiting = [turn for turn, part in zip(waiting, parts, strict=True) if part < 1]
    return timings


def measure_speed(path: Path, spec: EncoderSpec) -> dict[str, Any]:
    """A brief measurement for an exported model's manifest: milliseconds of a whole batch on one thread.

    Returns, as JSON, `image` and `text` (of `text_length` tokens): batch size → Timing.summary; `peak_mib` of the
    process, `threads`, `cpu`, `load_average`.
    """
    cases = {
        "image": [Case(batch) for batch in BATCHES],
        "text": [Case(batch, TEXT_LENGTH) for batch in BATCHES],
    }
    with SpeedProcess(path) as process:
        (timings,) = take_turns(
            [process], [*cases["image"], *cases["text"]], seconds=SECONDS, max_samples=MAX_SAMPLES
        )
        peak = process.peak_mib()
    measured = {
        tower: {str(case.batch): timings[case].summary() for case in of_tower}
        for tower, of_tower in cases.items()
    }
    about = {"peak_mib": peak, "threads": 1, "cpu": cpu_name(), "load_average": os.getloadavg()[0]}
    return {**measured, "text_length": taken_length(spec), **about}


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
    if what == "embeddings":
        return encode(inputs)
    first = _time(encode, inputs)
    return first if first > LONG else _time(encode, inputs)


def _time(encode: Callable[[Any], FloatArray], inputs: npt.NDArray[Any]) -> float:
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
