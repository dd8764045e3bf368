"""Several processes, on one or many hosts, that train one supernet; `torchrun` starts them.

Every process computes the gradient of its own part of the batch for the same subnets (they are drawn from the step's
number), then the gradients are averaged. Weights stay equal because all start equal and take equal steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from supernet.errors import OnceForAllError

BUCKET_BYTES = 25 * 2**20
"""Gradients travel in buckets of about this size: few messages, and the first is on its way while others are packed."""

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which may check every file of a large folder."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0; the one of rank 0 writes files.
        count: how many there are.
        local_rank: its number on this host; also its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def by_first(self, action: Callable[[], None]) -> None:
        """Do something in the first process alone, while the others wait for its end.

        Raises:
            Exception: the action's own, in the first process; the others end with `SystemExit`, status 2.
        """
        error: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as caught:
                error = caught
        (failed,) = self.sum(float(error is not None))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over all processes.

        All processes trained the same subnets, so the same parameters have a gradient everywhere.
        """
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        pending: list[tuple[list[Tensor], Tensor, dist.Work | None]] = []
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in pending:
            assert work is not None
            work.wait()
            flat /= self.count
            start = 0
            for gradient in bucket:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()


def torchrun_count() -> int:
    """How many processes `torchrun` started together with this one; 1 where it did not."""
    return int(os.environ["WORLD_SIZE"]) if _under_torchrun() else 1


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started with this one; alone where it did not.

    Args:
        device: "cpu" (they talk by gloo) or "cuda" (nccl; each takes the GPU of its local rank).
    """
    if not _under_torchrun():
        yield Processes()
        return
    here = Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if device == "cuda":
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield here
    except OnceForAllError as error:
        if error.process is None:  # its own, not one that all processes meet alike
            error.process = here.rank
        raise
    finally:
        dist.destroy_process_group()


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
