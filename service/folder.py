"""The service's data folder: who works in it, and what ended processes left in it."""

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
    """A folder that one process holds, or several share.

    Args:
        path: the folder; made when absent.
        cache: folder inside it, of what can be made again.
        shared: whether other processes that share it may hold it at the same time. The one that finds it free removes
            what ended ones left in it.
    """

    def __init__(self, path: Path, cache: Path, *, shared: bool = False) -> None:
        self._path = path
        self._cache = cache
        self._shared = shared
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
            free = _locked(file, fcntl.LOCK_EX)
            if not free and not (self._shared and _locked(file, fcntl.LOCK_SH)):
                raise RunBusyError(
                    f"another service is at work in {str(self._path)!r}; stop it, or choose another folder with"
                    " --data-dir"
                )
            if free:
                self._clear()
            if free and self._shared:
                fcntl.flock(file, fcntl.LOCK_SH)
        except BaseException:
            file.close()
            raise
        self._lock = file

    def temporary(self) -> Path:
        """A folder for this process's temporary files.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self._cache / "tmp"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _clear(self) -> None:
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


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
