"""TensorBoard and Weights & Biases beside metrics.jsonl, for those who watch their runs there.

Their packages are extras, imported only for a run that asks for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdx.core.errors import SetupError, UsageError
from kdx.core.log import MetricsLog

log = logging.getLogger(__name__)

STEP = "step"
Send = Callable[[int, Mapping[str, float]], None]  # the numbers of a step


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError for one that there is not, SetupError where its package is missing: call before long work."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"there is no tracker {name!r}", remedy=f"choose from {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise SetupError(f"the package {name} is not installed", remedy=f"pip install 'kdx[{name}]'")


class TrackedLog:
    """A metrics log that sends what it writes on. A tracker that fails is told once and left; the run goes on."""

    def __init__(self, metrics: MetricsLog, trackers: Mapping[str, Send]) -> None:
        self._metrics, self._trackers = metrics, dict(trackers)

    def write(self, **numbers: Any) -> None:
        self._metrics.write(**numbers)
        values = {name: float(value) for name, value in numbers.items() if name != STEP}
        for name, send in list(self._trackers.items()):
            try:
                send(numbers[STEP], values)
            except Exception as error:  # of somebody else's network or server
                log.warning("%s takes no more numbers: %s", name, error)
                del self._trackers[name]


@contextlib.contextmanager
def tracked(
    metrics: MetricsLog, names: Sequence[str], out: Path, recipe: Mapping[str, Any]
) -> Generator[TrackedLog]:
    """The log, which also sends to the trackers `names` while the block runs. out: the run's folder, not yet there.

    TensorBoard reads OUT.tensorboard; Weights & Biases shows the run by OUT's name in the project that WANDB_PROJECT
    names, or in "kdx". recipe: told to those who show settings.
    """
    with contextlib.ExitStack() as stack:
        yield TrackedLog(
            metrics, {name: stack.enter_context(TRACKERS[name](out, recipe)) for name in dict.fromkeys(names)}
        )


@contextlib.contextmanager
def _tensorboard(out: Path, _: Mapping[str, Any]) -> Generator[Send]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out.with_name(f"{out.name}.tensorboard")))

    def send(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    with contextlib.closing(writer):
        yield send


@contextlib.contextmanager
def _wandb(out: Path, recipe: Mapping[str, Any]) -> Generator[Send]:
    import wandb  # pyright: ignore[reportMissingImports]

    project = wandb.Settings().project or "kdx"
    run = wandb.init(project=project, name=out.name, dir=str(out.absolute().parent), config=dict(recipe))
    try:
        yield lambda step, numbers: run.log(dict(numbers), step=step)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], contextlib.AbstractContextManager[Send]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
