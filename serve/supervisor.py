"""Starting, watching and stopping one Triton server on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import psutil

from kdx.core.bound_process import start_bound
from kdx.core.cache import cache_folder
from kdx.core.errors import SetupError, UsageError
from kdx.core.provenance import gpu_names
from kdx.runtime.triton import TritonConnection

from .environment import SHARED_MEMORY, Triton, find_triton
from .liveness import Watch
from .probe import probe
from .repository import MODELS, open_repository
from .served_model import ServedModel, read_models

HOST = "127.0.0.1"
START_TIMEOUT = 120.0  # seconds until each model has answered once
EXIT_TIMEOUT = 10  # seconds that Triton gives running requests; less can crash it while models unload
WATCH_INTERVAL = 2.0  # seconds between two looks at a running server
REGION = "triton_python_backend_shm_region_"
CHOICE_OF_GPUS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")  # the user's, among several
RESTRICTED = "shared-memory,model-repository,trace,logging"  # nothing a client of kdx needs


class TritonServer:
    """A Triton on 127.0.0.1 that serves one repository over gRPC, as a context manager.

    Entering starts it and returns when each model has answered a real inference; leaving stops it, whatever
    happened inside. port 0 takes a free one; `url` says which. log: the file that receives Triton's output.

    Raises SetupError when no Triton is installed, the port is taken, or it does not become ready; DataError
    when the repository is not whole. Two servers on one machine need two ports.
    """

    def __init__(
        self, repository: Path, log: Path, *, port: int = 0, start_timeout: float = START_TIMEOUT
    ) -> None:
        self.repository = repository
        self.log = log
        self.port = port
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self.stubs: dict[
            str, list[psutil.Process]
        ] = {}  # the processes that run the models' Python, by model
        self.models: list[ServedModel] = []
        self._shared_memory: set[Path] = set()

    @property
    def url(self) -> str:
        return f"grpc://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        manifest = open_repository(self.repository)
        models = self.repository / MODELS
        self.models = read_models(models)
        check_runs_here(self.repository, self.models)
        triton = find_triton(manifest.fields.get("format", "onnx"), manifest.fields.get("device", "cpu"))
        self.source = triton.source
        self.port = free_port(self.port)
        self._process = _start(_command(triton, models, self.port), _variables(triton), self.log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self) -> NoReturn:
        """Looks at the server until it is dead, then raises SetupError. A model that is only busy is let work.

        A killed process of a model is found within ten seconds, one that hangs within a minute.
        """
        with contextlib.closing(TritonConnection(self.url)) as connection:
            watch = Watch(connection, self.models, self.stubs)
            while True:
                try:
                    watch.look()
                except SetupError:
                    self._check_running()  # if all of it has ended, its log has the reason
                    raise
                time.sleep(WATCH_INTERVAL)

    def stop(self) -> None:
        """SIGTERM, time to finish, then SIGKILL for what is left, stubs included. Safe to call twice."""
        process = self._process
        if process is None:
            return
        self._note_shared_memory()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_TIMEOUT + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for region in self._shared_memory:
            region.unlink(missing_ok=True)
        self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not _accepts(self.port):  # before that, a gRPC channel would back off for seconds
            self._check_running()
            self._check_deadline(deadline)
            time.sleep(0.05)
        with contextlib.closing(TritonConnection(self.url)) as connection:
            while True:
                self._check_running()
                try:
                    probe(connection, self.models)
                    break
                except SetupError:
                    self._check_deadline(deadline)
                    time.sleep(0.2)
        self._note_shared_memory()
        self.stubs = self._find_stubs()

    def _check_running(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise SetupError(
                f"Triton ended: {_reason(self.log)}", where=self.log, remedy="the file holds its whole log"
            )

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise SetupError(
                f"Triton was not ready within {self._start_timeout:.0f} s: {_reason(self.log)}",
                where=self.log,
                remedy="the file holds its whole log",
            )

    def _find_stubs(self) -> dict[str, list[psutil.Process]]:
        """By model; `zero_shot_0_1` in a command line is an instance of zero_shot. An ended one has none any more."""
        stubs: dict[str, list[psutil.Process]] = {}
        for process, arguments in self._children():
            for model in self.models:
                if any(argument.startswith(f"{model.name}_") for argument in arguments):
                    stubs.setdefault(model.name, []).append(process)
        return stubs

    def _note_shared_memory(self) -> None:
        """Regions of the stubs: a killed stub leaves its own behind."""
        for _, arguments in self._children():
            for argument in arguments:
                name = argument.rsplit("/", 1)[-1]
                if name.startswith(REGION):
                    self._shared_memory.add(SHARED_MEMORY / name)

    def _children(self) -> list[tuple[psutil.Process, list[str]]]:
        """Triton's child processes with their command lines."""
        assert self._process is not None
        children: list[tuple[psutil.Process, list[str]]] = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    children.append((child, child.cmdline()))
        return children


def check_runs_here(repository: Path, models: Sequence[ServedModel]) -> None:
    """Raises UsageError for a repository that needs NVIDIA's container, SetupError for one that needs a GPU."""
    native = next((model for model in models if model.backend != "python"), None)
    if native:
        raise UsageError(
            f"{native.name} needs Triton's {native.backend} backend, and the Triton that kdx installs has python alone",
            where=repository,
            remedy="run NVIDIA's container on it (docs/serving.md), or build with --backend python",
        )
    if any(model.device == "gpu" for model in models):
        check_gpu(repository)


def check_gpu(served: Path) -> None:
    """Raises SetupError on a machine without an NVIDIA GPU. served: what was to run on one."""
    if not gpu_names():
        raise SetupError(
            "was to run on a GPU, and this machine shows none",
            where=served,
            remedy="give --device cpu; `nvidia-smi` says what the driver sees",
        )


def _command(triton: Triton, models: Path, port: int) -> list[str]:
    return [
        str(triton.server),
        f"--model-repository={models.resolve()}",
        f"--backend-directory={triton.backends}",
        # an instance's share of /dev/shm: what it starts with, and the steps in which it grows
        f"--backend-config=python,shm-default-byte-size={2**20}",
        f"--backend-config=python,shm-growth-byte-size={2**20}",
        f"--grpc-address={HOST}",
        f"--grpc-port={port}",
        # gRPC alone: this binary's HTTP front dies of short malformed requests and holds up the stop
        "--allow-http=false",
        "--allow-metrics=false",
        "--allow-gpu-metrics=false",
        f"--grpc-restricted-protocol={RESTRICTED}:kdx={secrets.token_hex(16)}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT}",
        "--log-format=ISO8601",
    ]


def _variables(triton: Triton) -> dict[str, str]:
    """The whole environment of the server: its python3 first in PATH decides on the stubs' packages."""
    variables = {"PATH": f"{triton.path}:/usr/bin:/bin", "LANG": "C.UTF-8", "KDX_CACHE": str(cache_folder())}
    variables |= {name: os.environ[name] for name in CHOICE_OF_GPUS if name in os.environ}
    if triton.library_path:
        variables["LD_LIBRARY_PATH"] = triton.library_path
    return variables


def _start(command: list[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Raises SetupError."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            return start_bound(
                command,
                signal.SIGTERM,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables,
                start_new_session=True,  # Ctrl-C reaches kdx alone, which then stops the server in order
            )
    except OSError as error:
        raise SetupError(
            f"Triton cannot start: {error.strerror}",
            where=error.filename or command[0],
            remedy="choose another file with --log",
        ) from None


def free_port(port: int) -> int:
    """`port`, or a free one for 0. Triton itself would notice a taken port only after loading all models."""
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((HOST, port))
            probe_socket.listen()
        except OSError as error:
            raise SetupError(
                f"port {port} cannot be used: {error.strerror}",
                where=HOST,
                remedy="choose another port, or 0 for any free one",
            ) from None
        return int(probe_socket.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


def _reason(log: Path) -> str:
    """The line of Triton's log that says why it did not start, as far as one can tell."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for pattern in (r"UNAVAILABLE: (?P<why>[^|]+)", r"^error: (?P<why>.+)", r"failed to (?P<why>.+)"):
        for line in lines:
            if found := re.search(pattern, line):
                return found["why"].strip()
    return lines[-1] if lines else "it wrote no log"
