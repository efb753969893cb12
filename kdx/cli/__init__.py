"""The command line. Commands are imported when they are called, so that `kdx --help` stays instant."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import click

import kdx
from kdx.core.errors import KdxError, SetupError
from kdx.core.extras import naming_the_extra
from kdx.core.spelling import nearest

from .output import write_what_cannot_be_encoded_as_escapes

# what an operating system refuses anywhere, in reading and in writing, whatever kdx has checked before
MACHINE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
}

# verb → (module under kdx.cli, the line that `kdx --help` shows)
VERBS = {
    "demo": ("demo", "Run the whole chain on this machine, from images to answers."),
    "data": ("data", "Make and inspect sets of image–text pairs."),
    "models": ("models", "List architectures and make checkpoints."),
    "import": ("import_", "Read weights of open_clip, OpenAI, CLIP-KD or Hugging Face."),
    "distill": ("distill", "Train a student from a recipe, with or without a teacher."),
    "cache": ("cache", "Make and inspect teacher caches."),
    "export": ("export", "Export a checkpoint to ONNX and prove that nothing changed."),
    "parity": ("parity", "Compare two models on the same images and texts, and draw it."),
    "serve": ("serve", "Serve an exported model with Triton."),
    "query": ("query", "Ask a model for embeddings, classes and images."),
    "eval": ("eval", "Zero-shot accuracy and retrieval recall of any model."),
    "info": ("info", "Say what a folder of kdx is, what it was made from, and what to type next."),
    "bench": ("bench", "Measure latency, compare methods and write reports."),
    "doctor": ("doctor", "Check what this machine has and what is missing."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"kdx.cli.{VERBS[cmd_name][0]}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(_with_nearest(args[0], error.message), ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(kdx.__version__, prog_name="kdx")
@click.option("--verbose", "-v", is_flag=True, help="Show log lines on stderr.")
def cli(verbose: bool) -> None:
    """Distil CLIP models, export them and serve them with Triton.

    An export is written only if it passes the parity gate: on held-out images and texts it must give the same
    embeddings as the PyTorch model. `kdx COMMAND --help` explains a command with an example.

    Start with: kdx demo
    """
    from kdx.core.log import configure_logging

    configure_logging(verbose=verbose)


def main(args: list[str] | None = None) -> NoReturn:
    """Runs kdx and exits: 0 done, 1 a bug, 2 usage, 3 a gate, 4 bad data, 5 the machine, 6 inconclusive, 130 or 143."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    write_what_cannot_be_encoded_as_escapes()
    try:
        with naming_the_extra():
            cli.main(args, prog_name="kdx", standalone_mode=False)
    except KdxError as error:
        _fail(str(error), error.remedy)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _fail(error.format_message(), f"see {context.command_path} --help" if context else None)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in MACHINE:
            _report_bug()
        _fail(
            f"{error.filename or 'this machine'}: {error.strerror}",
            "check the path, its permissions and the space",
        )
        sys.exit(SetupError.exit_code)
    except Exception:
        _report_bug()
    sys.exit(0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends kdx in order, so that what is half-written is removed."""
    sys.exit(128 + number)


def _report_bug() -> NoReturn:
    """Call while the exception is handled."""
    import traceback

    traceback.print_exc()
    _fail("this is a bug in kdx", "report it with the lines above and the output of `kdx doctor --json`")
    sys.exit(1)


def _fail(what: str, remedy: str | None) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {what}", err=True)
    if remedy:
        click.echo(f"  remedy: {remedy}", err=True)


def _with_nearest(word: str, message: str) -> str:
    close = nearest(word, VERBS)
    return f"there is no command {word!r}; did you mean {close!r}?" if close else message
