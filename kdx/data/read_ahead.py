"""Chunks are filled while others are used: by threads of this process, or by processes of torch's DataLoader.

Threads are for sets whose decoded views fit into memory: they are decoded once, and starting processes would cost more
than it saves. Decoding on and on takes processes: each photo holds Python's lock for some tenths of a millisecond, and
the loop needs it too.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from kdx.core.bound_pool import ForkServer, bind_to
from kdx.core.errors import KdxError, SetupError

from .chunks import Chunks, Filled, Request

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECK = 5.0  # seconds after which it is looked whether the processes live
TOLD = 30.0  # seconds without a chunk after which that is said
PATIENCE = 600.0  # seconds without a chunk after which it is given up
TIMED_OUT = "DataLoader timed out"  # how torch's error begins


@contextlib.contextmanager
def in_threads(
    chunks: Chunks, requests: Iterable[Request], *, ahead: int, num_threads: int
) -> Generator[Iterator[Filled]]:
    """The requests' chunks in their order, while up to `ahead` later ones are being filled."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="kdx-decode")

    def filled() -> Iterator[Filled]:
        running: deque[Future[Filled]] = deque()
        for request in requests:
            running.append(pool.submit(chunks.fill, request))
            if len(running) > ahead:
                yield _wait(running.popleft().result)
        while running:
            yield _wait(running.popleft().result)

    try:
        yield filled()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def in_processes(
    chunks: Chunks, requests: Iterable[Request], *, ahead: int, num_workers: int
) -> Generator[Iterator[Filled]]:
    """The same by processes, which end with this one however it ends. ahead: a multiple of num_workers.

    Raises SetupError when one of them is killed.
    """
    # a fork would copy a GPU's context and locks that other threads hold; a fresh process for each imports torch anew
    context = ForkServer()
    context.set_forkserver_preload([__name__])
    theirs, ours = context.Pipe(duplex=False)  # `ours` is closed by us, or by the system when we are killed
    with theirs, ours:
        loader = DataLoader(
            _Served(chunks),
            batch_size=None,
            sampler=requests,
            num_workers=num_workers,
            prefetch_factor=ahead // num_workers,
            collate_fn=_as_it_is,
            timeout=CHECK,
            multiprocessing_context=context,
            worker_init_fn=partial(_begin, theirs),
            generator=torch.Generator(),  # else it would draw a seed from the run's own
        )
        filled = _served(loader)
        try:
            yield filled
        finally:
            filled.close()  # ends the processes, each after the chunk that it is at


def _served(loader: DataLoader[Any]) -> Generator[Filled]:
    iterator = iter(loader)
    while (filled := _wait(partial(_next, iterator))) is not None:
        yield filled


def _next(iterator: Iterator[Any], timeout: float) -> Filled | None:
    """None after the last. timeout: is the loader's own."""
    try:
        filled = next(iterator, None)
    except RuntimeError as error:
        if str(error).startswith(TIMED_OUT):
            raise TimeoutError from None
        raise _ended() from error
    except OSError as error:  # of the connection to a process that is gone
        raise _ended() from error
    if isinstance(filled, KdxError):
        raise filled
    return filled


class _Served(Dataset[Any]):
    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def __getitem__(self, request: Request) -> Filled | KdxError:
        try:
            return self._chunks.fill(request)
        except KdxError as error:  # torch would make another error of it
            return error


def _begin(parent: Any, worker: int) -> None:
    bind_to(parent)


def _as_it_is(filled: Any) -> Any:
    return filled


def _wait(take: Callable[[float], T]) -> T:
    """take: gives a chunk, or raises TimeoutError after so many seconds. Raises SetupError when none comes."""
    waited = 0.0
    while True:
        try:
            return take(CHECK)
        except TimeoutError:
            waited += CHECK
        if waited >= PATIENCE:
            raise SetupError(
                f"no image was read for {waited:.0f} seconds",
                remedy="look whether the storage of the shards answers",
            )
        if waited % TOLD < CHECK:
            log.warning("no image was read for %.0f seconds: is the storage of the shards slow?", waited)


def _ended() -> SetupError:
    return SetupError(
        "a process that decodes images was killed",
        remedy="the system does that when memory is short: lower batch_size, or the number of processes",
    )
