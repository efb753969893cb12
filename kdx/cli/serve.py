"""`kdx serve`: from an exported model to a running Triton."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from .output import print_json


def _refuse_host(ctx: click.Context, parameter: click.Parameter, host: str | None) -> None:
    """Asked for by whoever wants to be reached from elsewhere, so it is answered with the way to do that."""
    from kdx.core.errors import UsageError

    if host is not None:
        raise UsageError(
            "a server of kdx is reached from this machine alone, because the Triton that kdx installs has known holes",
            where="--host",
            remedy="for a network: kdx serve build, and NVIDIA's current container behind a gateway (docs/serving.md)",
        )


@click.group(name="serve")
def command() -> None:
    """Serve an exported model with Triton.

    Example: kdx serve up exported
    """


_device = click.option(
    "--device",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="What runs the encoders; gpu: an NVIDIA GPU.",
)
_instances = click.option(
    "--instances",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Processes of each model that works on the CPU. With as many as the server has cores it answers the most "
    "requests a second; each holds the weights.",
)


@command.command()
@click.option(
    "--format",
    "format_",
    default="onnx",
    show_default=True,
    help="The format that it is to run, as of kdx export.",
)
@_device
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def install(format_: str, device: str, as_json: bool) -> None:
    """Install the Triton binary and its packages under the user's cache folder (about 350 MB, once).

    It is the binary of nvidia-pytriton, for this machine's loopback interface. KDX_CACHE names another folder. Formats
    whose runner needs other packages have an installation each.

    Example: kdx serve install
    """
    from kdx.serve.environment import install_triton

    if not as_json:
        click.echo("looking for Triton; the first installation downloads about 120 MB", err=True)
    environment, made = install_triton(format_, device)
    if as_json:
        print_json({"environment": str(environment), "installed_now": made})
        return
    click.echo(environment)
    click.echo("installed Triton" if made else "Triton was installed already: reused", err=True)


@command.command()
@click.argument("exported", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default="python",
    show_default=True,
    help="What runs the encoders: kdx's own code, or a backend of Triton that NVIDIA's container has.",
)
@_device
@_instances
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the repository goes.")
@click.option("--overwrite", is_flag=True, help="Replace a repository that lies at OUT.")
def build(exported: Path, backend: str, device: str, instances: int, out: Path, overwrite: bool) -> None:
    """Write the Triton model repository of the exported model EXPORTED.

    Its models have the same names and tensors whatever runs them. A deferred export (kdx export --defer) is built
    first, for the GPU of this machine.

    Example: kdx serve build exported --out repository
    """
    from kdx.serve.repository import write_repository

    click.echo(
        write_repository(
            exported, out, backend=backend, device=device, instances=instances, overwrite=overwrite
        )
    )
    if backend == "python":
        click.echo(f"next: kdx serve up {out}", err=True)
    else:
        click.echo("next: NVIDIA's container, as docs/serving.md says", err=True)


@command.command()
@click.argument("exported", type=click.Path(path_type=Path))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="gRPC port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="File for Triton's log.  [default: triton-PORT.log in KDX_CACHE or the user's cache folder]",
)
@_device
@_instances
@click.option("--host", hidden=True, expose_value=False, callback=_refuse_host)
@click.pass_context
def up(ctx: click.Context, exported: Path, port: int, log: Path | None, device: str, instances: int) -> None:
    """Start a Triton that serves EXPORTED, an exported model or a repository, until Ctrl-C.

    The URL is printed when every model has answered a real inference. While it runs it is watched: if a model is
    dead, and not only busy, the server is stopped and kdx exits 5.

    A repository has its device and instances from kdx serve build.

    Example: kdx serve up exported --port 8001
    """
    from contextlib import closing

    from kdx.core.cache import cache_folder
    from kdx.runtime.triton import TritonConnection
    from kdx.serve.environment import shared_memory_shortage
    from kdx.serve.repository import SHARED_MEMORY_NEEDED
    from kdx.serve.supervisor import TritonServer, free_port

    given = [
        name
        for name in ("device", "instances")
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    port = free_port(port)
    log = log or cache_folder() / f"triton-{port}.log"
    with _terminable(), _repository(exported, device, instances, given) as repository:
        if shortage := shared_memory_shortage(SHARED_MEMORY_NEEDED):
            click.echo(f"note: {shortage}", err=True)
        with TritonServer(repository, log, port=port) as server:
            click.echo(server.url)
            click.echo(
                f"ready; log: {log}\n"
                f'next: kdx query text {server.url} "a photo of a dog."   (Ctrl-C stops the server)',
                err=True,
            )
            with closing(TritonConnection(server.url)) as connection:
                _say_if_unsure(connection.read_verdict())
            server.watch()


@command.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(url: str, as_json: bool) -> None:
    """Ask each model of the server at URL one real inference; exit 5 if one does not answer.

    Example: kdx serve check grpc://localhost:8001
    """
    from contextlib import closing

    from kdx.runtime.triton import TritonConnection
    from kdx.serve.probe import find_models, probe

    with closing(TritonConnection(url)) as connection:
        milliseconds = probe(connection, find_models(connection))
        version, verdict = connection.server_version(), connection.read_verdict()
    if as_json:
        print_json({"url": url, "triton": version, "parity": verdict, "milliseconds": milliseconds})
        return
    click.echo(f"Triton {version} answers: " + ", ".join(f"{m} {t:.1f} ms" for m, t in milliseconds.items()))
    _say_if_unsure(verdict)


def _say_if_unsure(verdict: str | None) -> None:
    if verdict == "INCONCLUSIVE":
        click.echo(
            "INCONCLUSIVE: too few images showed that this model is the trained one; its maker allowed that",
            err=True,
        )


@contextmanager
def _repository(exported: Path, device: str, instances: int, given: list[str]) -> Iterator[Path]:
    """The repository at `exported`, or one made from the exported model there for as long as the server runs."""
    from kdx.core.errors import UsageError
    from kdx.core.folders import read_manifest
    from kdx.core.scratch import scratch_folder
    from kdx.serve.environment import find_triton
    from kdx.serve.layout import check_pairing
    from kdx.serve.repository import KIND, read_to_serve, write_repository
    from kdx.serve.supervisor import check_gpu

    if exported.is_dir() and read_manifest(exported).kind == KIND:
        if given:
            raise UsageError(
                f"is a repository, which has its {given[0]} already",
                where=exported,
                remedy=f"leave out --{given[0]}, or give it to kdx serve build",
            )
        yield exported
        return
    found = read_to_serve(exported)
    check_pairing(found, "python", device)
    if device == "gpu":
        check_gpu(exported)
    find_triton(found.format.name, device)
    with scratch_folder() as folder:
        yield write_repository(exported, folder / "repository", device=device, instances=instances)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block in order, with exit code 0: it is how containers and supervisors stop a server."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
