"""Training on several processes, as torchrun starts them.

Each rank embeds its part of the global batch and computes the loss of its own rows against the columns of all ranks
(local_rows.py). What it gathers carries gradient, so the mean of the ranks' gradients is the gradient of one process,
for the same embeddings: of towers, projections and scales alike. No rank computes what another does. MFD's masks are
those of one process too. What differs are the random numbers of dropout, of which each rank draws its own, and batch
statistics on CPUs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdx.core.errors import KdxError, SetupError, UsageError

K = TypeVar("K")
V = TypeVar("V")
PATIENCE = timedelta(days=2)  # the others wait while the first rank makes a teacher cache
GRACE = 20.0  # seconds in which torchrun ends the others when one process has failed


@dataclass(frozen=True)
class Ranks:
    """The processes of one run: `size` of them, this one being `rank`, from 0. Alone by default.

    local_size: how many of them are on this machine. control: the group for messages between CPUs.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def local_batch_size(self, batch_size: int, accumulate: int = 1) -> int:
        """This rank's share of a global batch, which goes through the towers in `accumulate` parts.

        Raises UsageError where ranks would have unequal shares, or one pair at once, which no batch statistic is made
        of.
        """
        local = batch_size // self.size
        if batch_size % self.size or (self.size > 1 and local < 2):
            raise UsageError(
                f"batch_size = {batch_size} cannot be split evenly over {self.size} processes, two pairs or more each",
                remedy=f"--set batch_size={max(2, local) * self.size}, or start another number of processes",
            )
        if accumulate > 1 and local < 2 * accumulate:
            raise UsageError(
                f"accumulate = {accumulate}: the {local} pairs of a process are too few for parts of two or more",
                remedy=f"--set accumulate={max(1, local // 2)}, or a larger batch_size",
            )
        return local

    def gather(self, rows: Tensor) -> Tensor:
        """[b, …] → [size · b, …], the rows of all ranks in the order of ranks, with gradient where `rows` have one."""
        return rows if self.size == 1 else _Gather.apply(rows, self)  # type: ignore[no-any-return]

    def share(self, module: nn.Module, backwards: int = 1) -> nn.Module:
        """The module with the first rank's weights, whose backward pass averages gradients over the ranks.

        backwards: how many backward passes a step has; the last one averages.
        """
        if self.size == 1:
            return module
        # either way finds the parameters that no loss reaches; a static graph, which is faster, knows no no_sync()
        static = backwards == 1
        return DistributedDataParallel(
            module, forward_sync_buffers=False, static_graph=static, find_unused_parameters=not static
        )

    def merge(self, mine: dict[K, V]) -> dict[K, V]:
        """The entries of all ranks."""
        if self.size == 1:
            return mine
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, mine, group=self.control)
        return {key: value for each in everyone for key, value in each.items()}

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over the ranks of a tensor that each has, without gradient."""
        if self.size == 1:
            return numbers
        total = numbers.clone()
        dist.all_reduce(total)
        return total / self.size

    @contextlib.contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The block runs on the first rank, and on the others once it is done there."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = Ranks()


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Joins the processes that torchrun started this one with; alone without torchrun.

    Raises SetupError where a machine has fewer GPUs than processes, and where one of them has gone.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    if torch.cuda.is_available():
        device = _own_gpu(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(control, dist.ProcessGroup)  # every process is a member
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]), control)
    try:
        yield ranks
    except Exception as error:
        # Another's failure takes this process along, with an error that explains nothing; an error of all is said
        # once. torchrun ends those who wait here.
        lost = _is_lost_connection(error)
        if not (ranks.is_first and (lost or isinstance(error, KdxError))):
            time.sleep(GRACE)
        if lost:
            raise SetupError(
                "another process of this run has ended, or cannot be reached",
                remedy="what it or torchrun says tells why; then begin again, with --resume where a state is kept",
            ) from error
        raise  # without destroying the group, which would wait for the others
    dist.destroy_process_group()


def _is_lost_connection(error: Exception) -> bool:
    """Whether it is what PyTorch says when another process of the group no longer answers; of gloo in words alone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _own_gpu(local_rank: int) -> torch.device:
    """Makes it the one that "cuda" means."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise SetupError(
            f"process {local_rank + 1} of this machine has no GPU of its own, {count} are there",
            remedy=f"torchrun --nproc-per-node {count}",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums what all ranks' losses say of the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        everyone = rows.new_empty(ranks.size * rows.shape[0], *rows.shape[1:])
        dist.all_gather(list(everyone.chunk(ranks.size)), rows.contiguous())
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(ctx.ranks.size)[ctx.ranks.rank], None
