"""Processes for tests of several ranks, forked from a server that has imported torch: each starts in an instant."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE = 120  # seconds
# what `kdx distill` imports, and what torch imports at the first step of an optimiser
PRELOADED = ["kdx.models", "kdx.cli.distill", "kdx.distill.run", "kdx.runtime.torch", "torch._dynamo"]


def start_ranks(
    size: int, folder: Path, work: Callable[..., None], *arguments: Any, ends_others: bool = True
) -> tuple[list[int], str, str]:
    """Runs work(*arguments) in `size` processes with the environment that torchrun gives.

    Returns their exit codes and what they printed, out and err. ends_others: as torchrun does when one has
    failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_run, args=(rank, size, port, folder, work, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    _wait(processes, ends_others)
    out, err = (
        "".join((folder / f"{name}.{rank}").read_text() for rank in range(size)) for name in ("out", "err")
    )
    return [process.exitcode or 0 for process in processes], out, err


def _wait(processes: Sequence[BaseProcess], ends_others: bool) -> None:
    limit = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes):
        failed = ends_others and any(process.exitcode for process in processes)
        if failed or time.monotonic() > limit:
            for process in processes:
                process.terminate()
        time.sleep(0.02)
    for process in processes:
        process.join()


def _run(
    rank: int, size: int, port: int, folder: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    import torch

    torch.set_num_threads(1)
    try:
        work(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
