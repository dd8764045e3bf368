"""Child processes that end with the process that started them, even when that one is killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lifeline() -> Iterator[int]:
    """A file descriptor for a child's standard input, which ends when this process does, or with the `with` block."""
    mine, held = os.pipe()
    try:
        yield mine
    finally:
        os.close(mine)
        os.close(held)


def end_with_parent() -> None:
    """End this process as soon as its standard input ends, whatever it does."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
