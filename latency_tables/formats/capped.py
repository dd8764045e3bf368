"""Reading of files whose size is bounded, so that no file is parsed, or even read, that cannot be what it should."""

from __future__ import annotations

from pathlib import Path

from supernet.errors import TableError


def read_capped(path: Path, max_bytes: int, what: str = "latency table") -> bytes:
    """A file's content.

    Raises:
        TableError: it is larger.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise TableError(f"{what}: {size} bytes; allowed: at most {max_bytes}")
    return path.read_bytes()
