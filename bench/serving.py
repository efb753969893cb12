"""What a server costs: images a second through Triton, beside processes that run the same model without one.

As many processes as the server has instances, on one thread each, are the most that its cores could do. The two take
turns; both start from the bytes of encoded images. The clients run on the same machine, in a process of their own, so
that they take from the server's figure; what they took is told apart as CPU time.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import kdx
from kdx.core.bound_pool import bound_pool
from kdx.core.encoder import Embedder
from kdx.core.errors import SetupError
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance, cpu_count
from kdx.core.scratch import scratch_folder
from kdx.evaluate.speed import one_thread
from kdx.runtime.exported_model import open_exported_model
from kdx.serve.repository import write_repository
from kdx.serve.supervisor import TritonServer

WARM_UP = 1.0  # seconds of each before the first round


def measure_serving(
    exported_model: Path,
    images: Sequence[bytes],
    *,
    clients: int = 8,
    instances: int | None = None,
    seconds: float = 10.0,
    rounds: int = 3,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Serves an exported model, and lets `clients` send one image after another, each waiting for its answer.

    images: encoded; all are sent in turn. instances: of the server's models, and processes without a server; by default
    one a core. seconds: of each, in each round.

    Returns, as JSON, `served` and `alone`: medians over the rounds of `images_per_second`, `cpu_ms` of an image
    (without the clients'), and for `served` `client_cpu_ms`, `p50`, `p95` in ms of a request; `throughput_ratio` and
    `cpu_ratio`, served by alone, the medians of the rounds'; `load_average`, `provenance`. Raises what opening and
    serving it raise, and SetupError where a process is killed.
    """
    instances = instances or cpu_count()
    model = open_exported_model(exported_model)
    done: dict[str, list[dict[str, float]]] = {"served": [], "alone": []}
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        repository = write_repository(exported_model, folder / "repository", instances=instances)
        server = stack.enter_context(TritonServer(repository, folder / "triton.log"))
        alone = stack.enter_context(bound_pool(instances, _open, (str(exported_model), list(images), 1)))
        asking = stack.enter_context(bound_pool(1, _open, (server.url, list(images), clients)))
        try:
            with one_thread():  # the processes start now
                _alone(alone, instances, WARM_UP)
                _served(asking, server, WARM_UP)
            load = os.getloadavg()[0]
            for number in range(rounds):
                progress(number, rounds)
                done["alone"].append(_alone(alone, instances, seconds))
                done["served"].append(_served(asking, server, seconds))
            asking.submit(_close).result()  # else each connection complains as Python ends
        except BrokenProcessPool:
            raise SetupError(
                "a process that encodes or asks was killed", where=exported_model, remedy="free memory"
            ) from None
    progress(rounds, rounds)
    return {
        "model": model.spec.name,
        "format": f"{model.format.name} {model.precision}",
        "clients": clients,
        "instances": instances,
        "rounds": rounds,
        "seconds": seconds,
        **{name: _medians(rows) for name, rows in done.items()},
        "throughput_ratio": _ratio(done, "images_per_second"),
        "cpu_ratio": _ratio(done, "cpu_ms"),
        "load_average": load,
        "provenance": collect_provenance(shipped=True),
    }


def serving_table(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    header = ["", "images/s", "CPU ms an image", "of the clients", "p50 ms", "p95 ms"]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    instances = document["instances"]
    for name, title in (
        ("served", f"Triton, {instances} instances"),
        ("alone", f"{instances} processes alone"),
    ):
        row = document[name]
        cells = [title, f"{row['images_per_second']:.1f}", f"{row['cpu_ms']:.2f}"]
        cells += [f"{row[key]:.3g}" if key in row else "" for key in ("client_cpu_ms", "p50", "p95")]
        lines.append(f"| {' | '.join(cells)} |")
    provenance = document["provenance"]
    return "\n".join(
        [
            *lines,
            "",
            f"{document['model']}, {document['format']}: {document['throughput_ratio']:.3f} of the throughput, "
            f"{document['cpu_ratio']:.3f} of the CPU time. {document['clients']} clients, {document['rounds']} rounds "
            f"of {document['seconds']:g} s; {provenance['cpu']}, {provenance['cpu_count']} cores, load average before "
            f"{document['load_average']:.1f}.",
        ]
    )


def _alone(processes: Executor, count: int, seconds: float) -> dict[str, float]:
    results = [task.result() for task in [processes.submit(_work, seconds) for _ in range(count)]]
    images = sum(len(times) for times, _ in results)
    return {"images_per_second": images / seconds, "cpu_ms": 1000 * sum(cpu for _, cpu in results) / images}


def _served(asking: Executor, server: TritonServer, seconds: float) -> dict[str, float]:
    before = _cpu_seconds(server)
    times, client_cpu = asking.submit(_work, seconds).result()
    spent = _cpu_seconds(server) - before
    p50, p95 = (1000 * float(np.percentile(times, rank, method="inverted_cdf")) for rank in (50, 95))
    return {
        "images_per_second": len(times) / seconds,
        "cpu_ms": 1000 * spent / len(times),
        "client_cpu_ms": 1000 * client_cpu / len(times),
        "p50": p50,
        "p95": p95,
    }


def _cpu_seconds(server: TritonServer) -> float:
    """Of Triton and the processes that run its models."""
    assert server.pid is not None
    triton = psutil.Process(server.pid)
    times = [process.cpu_times() for process in (triton, *triton.children(recursive=True))]
    return sum(time.user + time.system for time in times)


# In the processes that work: what each of them holds.
_embedders: list[Embedder] = []
_images: list[bytes] = []


def _open(model: str, images: list[bytes], clients: int) -> None:
    _images.extend(images)
    if "://" in model:
        _embedders.extend(kdx.load(model) for _ in range(clients))
    else:
        _embedders.append(open_exported_model(Path(model)).open(num_threads=1))


def _close() -> None:
    for embedder in _embedders:
        embedder.close()


def _work(seconds: float) -> tuple[list[float], float]:
    """Embeds one image after another with each embedder, for so long: the seconds of each call, and of CPU in all."""
    cpu, until = time.process_time(), time.perf_counter() + seconds

    def embed(embedder: Embedder, first: int) -> list[float]:
        times: list[float] = []
        for image in islice(cycle(_images), first, None):
            started = time.perf_counter()
            if started >= until:
                break
            embedder.embed_images([image])
            times.append(time.perf_counter() - started)
        return times

    with ThreadPoolExecutor(len(_embedders)) as threads:
        firsts = [len(_images) * row // len(_embedders) for row in range(len(_embedders))]
        times = [each for part in threads.map(embed, _embedders, firsts) for each in part]
    return times, time.process_time() - cpu


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _ratio(done: dict[str, list[dict[str, float]]], name: str) -> float:
    return statistics.median(
        served[name] / alone[name] for served, alone in zip(done["served"], done["alone"], strict=True)
    )
