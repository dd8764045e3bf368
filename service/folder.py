"""The service's data folder: one process at a time holds it, and clears what an ended one left in it."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from supernet.errors import RunBusyError, writing

_TEMPORARY = ("upload", "run", "subnet")
"""What is under way in the cache folder; the names of its folders begin so."""


class DataFolder:
    """A folder that at most one process holds.

    Args:
        path: the folder; made when absent.
        cache: folder inside it, of what can be made again.
    """

    def __init__(self, path: Path, cache: Path) -> None:
        self._path = path
        self._cache = cache
        self._lock: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the folder."""
        return self._lock is not None

    def hold(self) -> None:
        """Hold the folder, and remove the temporary folders of a process that was killed.

        Raises:
            RunBusyError: another process holds it.
            StorageError: it cannot be written.
        """
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            file = (self._path / "service.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise RunBusyError(
                f"another service is at work in {str(self._path)!r}; stop it, or choose another folder with --data-dir"
            ) from None
        self._lock = file
        for what in _TEMPORARY:
            for leftover in self._cache.glob(f"{what}-*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def release(self) -> None:
        """Let go of the folder; nothing happens when it is not held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextmanager
def temporary_folder(cache: Path, what: Literal["upload", "run", "subnet"]) -> Iterator[Path]:
    """A folder for the length of a `with` block; `DataFolder.hold` removes it if the process dies in the block.

    Args:
        cache: where; made when absent.
        what: is under way.

    Raises:
        StorageError: the cache cannot be written.
    """
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=cache, prefix=f"{what}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
