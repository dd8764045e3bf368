"""Lets a process that runs networks keep the memory that it frees, where the C library is glibc.

By default glibc gives every large block back to the system, which hands out fresh, zeroed pages for the next one. A
training step or a batch allocates the same activations again and again. Measured by benchmarks/reference_speed.py on
one thread with `mobilenet_v3_w1.0` at 128 pixels. Training, 32 images, largest network: 150,000 page faults a step
became 1,800, processor time is 1.5 times less (1.2 to 2.6); random subnets, whose blocks differ from step to step, and
`mobilenet_v3_tiny` gained little or nothing. Without gradients, batches of 128: a plain forward pass over 512 images
1.8 s of processor time instead of 5.2, calibration 1.7 instead of 2.9; the process's peak was 1.56 GB instead of 1.18.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Numbers of the settings in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Tell malloc to keep and reuse freed blocks, for the rest of this process.

    Returns:
        Whether that was possible; elsewhere than on glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    largest = 2**31 - 1
    blocks = any(mallopt(_MMAP_THRESHOLD, size) for size in (2**30, 2**25))  # some versions allow 32 MiB at most
    return bool(mallopt(_TRIM_THRESHOLD, largest)) and blocks


def share_arenas(count: int = 2) -> bool:
    """Let all threads allocate from a few arenas, for the rest of this process; for servers with many short requests.

    glibc gives each thread an arena of its own, up to eight for a core, and what a request frees in one of them is of
    no use to the next request in another thread: resident memory creeps for as long as the process lives, with no
    object too many in it. Call it before the threads are started.

    Returns:
        Whether that was possible; elsewhere than on glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_ARENA_MAX, count))
