"""Warm child processes: each imports torch once (2 s) and then does one job after another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import structlog

from service.settings import Settings

_log = structlog.get_logger(__name__)
_RETRY_S = 1.0


class JobProcess(Protocol):
    """A process that does jobs; see `Child`."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Pass one message."""

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """Wait for one event."""

    def kill(self) -> int:
        """End it."""


class Child:
    """A child process: JSON lines in, JSON lines out. It ends by itself when its standard input ends."""

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(settings.job_threads),
            start_new_session=True,  # Ctrl-C in the service's terminal is the service's; it would count as a crash here
        )
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.send(settings.model_dump(mode="json"))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        """Pass one message; a dead process takes it in silence, and its next event is the end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """Wait for one event; {"event": "end"} when the process has ended, None when there was none in time."""
        try:
            return self._events.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def kill(self) -> int:
        """End the process at once; returns its exit status."""
        self._process.kill()
        status = self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=5)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        return status

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                self._events.put(event if isinstance(event, dict) else {})
        self._events.put({"event": "end"})


class Children:
    """A fixed number of child processes, each lent to one job at a time.

    Args:
        count: of them.
        make: starts one.
        warm: whether each is started before it is needed, and then kept; False: each is made for one job, and ended
            after it. A warm one holds 830 MB for the two seconds that it saves.
    """

    def __init__(self, count: int, make: Callable[[], JobProcess], *, warm: bool = True) -> None:
        self._make = make
        self._keep = warm
        self._free: queue.SimpleQueue[JobProcess | None] = queue.SimpleQueue()
        self._all: set[JobProcess] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        for number in range(count):
            if warm:
                threading.Thread(target=self._warm, name=f"warm-{number}", daemon=True).start()
            else:
                self._free.put(None)

    @contextlib.contextmanager
    def lent(self) -> Iterator[JobProcess]:
        """A living child for the length of a `with` block; waits until one is free.

        Raises:
            OSError, RuntimeError: none could be started.
        """
        child = self._free.get()
        try:
            if child is None or not child.alive:
                self._forget(child)
                child = None
                child = self._started()
            yield child
        finally:
            if not self._keep:
                self._forget(child)
                self._free.put(None)
            elif child is None or child.alive or self._closed.is_set():
                self._free.put(child)
            else:
                self._forget(child)
                threading.Thread(target=self._warm, daemon=True).start()

    def close(self) -> None:
        """End all of them, now and for ever."""
        self._closed.set()
        with self._lock:
            ended = list(self._all)
        for child in ended:
            child.kill()

    def _warm(self) -> None:
        """Start one before it is needed; where that is refused (memory, process table), try again later."""
        while not self._closed.is_set():
            try:
                self._free.put(self._started())
                return
            except Exception as error:
                _log.error("job_child_not_started", error=f"{type(error).__name__}: {error}")
                self._closed.wait(_RETRY_S)

    def _started(self) -> JobProcess:
        child = self._make()
        with self._lock:
            self._all.add(child)
        if self._closed.is_set():
            child.kill()
        return child

    def _forget(self, child: JobProcess | None) -> None:
        if child is not None:
            child.kill()  # it is dead; this closes its pipes
            with self._lock:
                self._all.discard(child)


def child_environment(threads: int) -> dict[str, str]:
    """Variables of a child process: the parent's modules, and a cap on threads before torch makes any."""
    paths = os.pathsep.join(filter(None, sys.path))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
