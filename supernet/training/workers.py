"""Work spread over processes, its results in order: torch's DataLoader where each task makes a whole batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from supernet.errors import DataError, OnceForAllError

Task = TypeVar("Task")
Result = TypeVar("Result")
MOST_WORKERS = 16
PREFETCH = 3
"""Tasks that each worker is ahead. At 224 pixels a batch of 64 takes 10 MB of shared memory."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Processes that decode for one trainer: its share of the host's cores, at most `MOST_WORKERS`.

    torchrun states how many trainers share a host. Workers that are ahead sleep, so that on a CPU they take from
    training only what decoding costs anyway.
    """
    return max(1, min(MOST_WORKERS, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def in_workers(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, *, pin_memory: bool = False
) -> Iterator[Result]:
    """Do each task in one of several processes, ahead of the caller.

    Processes start with the call and end with the iterator; keeping them from one epoch to the next would save
    a tenth of a second or two (they are forked) at the price of state. Torch's
    global generators are neither used nor moved.

    Args:
        work: picklable; its result too, tensors travel in shared memory.
        tasks: picklable; read only a little ahead.
        workers: processes, at least 0; 0: in this one.
        pin_memory: whether tensors are copied to page-locked memory, from which a GPU fetches them.

    Yields:
        Results, in the tasks' order.

    Raises:
        DataError: a process died.
        OnceForAllError: what `work` raised.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: as asked for
        loader: DataLoader[Any] = DataLoader(
            _Work(work),
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            prefetch_factor=PREFETCH if workers else None,
            generator=torch.Generator(),
        )
        results = iter(loader)
    death = ""
    try:
        for result in results:
            if isinstance(result, _Failure):
                raise result.error
            yield result
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        death = " ".join(str(error).split())
    finally:
        del results  # ends the processes now; left to the garbage collector, each takes five seconds to notice
    if death:
        raise DataError(
            f"a process that decodes images died ({death}); use fewer --workers, or give the machine or container "
            "more (shared) memory"
        )


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the main process; torch would bury its message in a traceback."""

    error: OnceForAllError


class _Work(Dataset[Any]):
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, task: Any) -> Any:
        try:
            return self.work(task)
        except OnceForAllError as error:
            return _Failure(error)


def _as_it_is(result: Result) -> Result:
    return result
