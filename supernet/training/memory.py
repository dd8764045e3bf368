"""Lets a training process keep the memory that it frees, where the C library is glibc.

By default glibc gives every large block back to the system, which hands out fresh, zeroed pages for the next one. A
step allocates the same activations again and again. Measured on one thread, largest network of `mobilenet_v3_w1.0`, 32
images of 128x128: 50,000 to 125,000 page faults a step became none, 0.91 to 0.98 s of processor time 0.79 to 0.82 s.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
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
