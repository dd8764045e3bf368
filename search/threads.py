"""Keep numpy's matrix products in one thread."""

from __future__ import annotations

from contextlib import AbstractContextManager


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it, BLAS uses one thread.

    A search multiplies a hundred rows at a time, a fit a few hundred: too little to share out. Measured on 2 cores: a
    search takes 0.6 s with one thread and with two; with two, when another process holds a core, 16 to 23 s, because
    the threads wait for each other by spinning.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
