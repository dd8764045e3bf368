"""The service's data folder: who works in it, and what ended processes left in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
        shared: whether other processes that share it may hold it at the same time.
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
        """Hold the folder, and remove the temporary folders of processes that were killed.

        Raises:
            RunBusyError: another process holds it.
            StorageError: it cannot be written.
        """
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            file = (self._path / "service.lock").open("w")
        try:
            if not _locked(file, fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX):
                raise RunBusyError(
                    f"another service is at work in {str(self._path)!r}; stop it, or choose another folder with"
                    " --data-dir"
                )
            clear_leftovers(self._cache)
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

    def release(self) -> None:
        """Let go of the folder; nothing happens when it is not held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def pruning_folder(cache: Path, run_id: str) -> Path:
    """Where a pruning run keeps its state on this host; not made here. A restart leaves it, so that the run goes on."""
    return cache / f"pruning-{run_id}"


def forget_pruning_folders(cache: Path, is_active: Callable[[str], bool], *, older_than_s: float) -> int:
    """Remove what pruning runs left that ended badly.

    Args:
        cache: folder of them.
        is_active: whether the run of that id waits or runs.
        older_than_s: seconds since its last change; a younger one stays, so that its run goes on if asked for again.

    Returns:
        Number of folders that were removed.
    """
    before, count = time.time() - older_than_s, 0
    for folder in cache.glob("pruning-*"):
        changed = max((path.stat().st_mtime for path in (folder, *folder.iterdir())), default=0.0)
        if changed < before and not is_active(folder.name.removeprefix("pruning-")):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count


def clear_leftovers(cache: Path) -> int:
    """Remove the temporary folders of processes that were killed, whoever else is at work in the cache.

    Returns:
        Number of folders that were removed.
    """
    if not cache.is_dir():
        return 0
    with _locking(cache, fcntl.LOCK_EX):  # nobody is between making a folder and holding it
        dead = [folder for what in _TEMPORARY for folder in cache.glob(f"{what}-*") if not _is_held(folder)]
    for folder in dead:
        shutil.rmtree(folder, ignore_errors=True)
    return len(dead)


@contextmanager
def temporary_folder(cache: Path, what: Literal["upload", "run", "subnet"]) -> Iterator[Path]:
    """A folder for the length of a `with` block; `clear_leftovers` removes it if the process dies in the block.

    Args:
        cache: where; made when absent.
        what: is under way.

    Raises:
        StorageError: the cache cannot be written.
    """
    with ExitStack() as held:
        with writing(cache):
            cache.mkdir(parents=True, exist_ok=True)
            with _locking(cache, fcntl.LOCK_SH):
                folder = Path(tempfile.mkdtemp(dir=cache, prefix=f"{what}-"))
                held.enter_context(_locking(folder, fcntl.LOCK_EX))  # the system lets go of it when the process ends
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locking(folder: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a folder; waits for it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def _is_held(folder: Path) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone by now
        return True
    try:
        return not _locked(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _locked(file: IO[str] | int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
