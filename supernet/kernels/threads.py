"""Splits a kernel's work over as many threads as PyTorch uses.

Not numba's own threads: its default layer may not be entered from two Python threads, and its OpenMP layer breaks
in forked children. These are plain Python threads that wait on a queue between calls; kernels run without the
interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

LEAST_WORK = 1_000_000
"""Multiply-adds (or numbers moved) a thread below which starting another one costs more than it saves."""


def split(kernel: Callable[..., None], count: int, work: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, last)` for ranges that together cover `range(count)`, at once.

    Args:
        kernel: compiled function without the interpreter's lock; ranges must be independent of each other.
        count: parts of the work.
        work: multiply-adds in all of it.
        arguments: passed on.
    """
    threads = min(torch.get_num_threads(), count, work // LEAST_WORK)
    if threads <= 1:
        kernel(*arguments, 0, count)
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    pool = _pool(os.getpid(), threads)
    others = [pool.submit(kernel, *arguments, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    kernel(*arguments, 0, bounds[1])
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One pool a process (a forked child has none of its parent's threads) and number of threads."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="kernel")
