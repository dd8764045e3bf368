"""Reading of files whose size is bounded, so that no file is parsed, or even read, that cannot be what it should."""

from __future__ import annotations

import stat
from pathlib import Path

from supernet.errors import TableError


def read_capped(path: Path, max_bytes: int, what: str = "latency table") -> bytes:
    """A file's content.

    Raises:
        TableError: it is larger, or no regular file: a pipe or a device has no size, and may have no end.
        OSError: it cannot be read.
    """
    facts = path.stat()  # before it is opened: opening a pipe waits for its writer
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise TableError(f"{what}: a pipe or a device; give a regular file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TableError(f"{what}: {max(len(data), facts.st_size)} bytes; allowed: at most {max_bytes}")
    return data
