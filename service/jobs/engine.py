"""The jobs' side of the API process: submit, cancel, and keep a job host of its own going."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import structlog
from sqlalchemy.orm import Session

from service.jobs import queue
from service.settings import Settings
from service.storage import executors
from service.storage import jobs as rows
from service.storage.database import Database

if TYPE_CHECKING:
    from dbos import DBOSClient

_log = structlog.get_logger(__name__)
_RESTART_S = 0.5
_STOP_S = 10.0
_EPOCH_S = 1_735_689_600  # 2025 began


class JobEngine(ABC):
    """Takes jobs in and calls them off; who does them is another process."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take jobs; those that an ended service left unfinished run again.

        Raises:
            StorageError: the database cannot be written.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the own job host; its unfinished jobs go on at the next start, or on other hosts."""

    @abstractmethod
    def submit(self, session: Session, kind: str, job_id: str, payload: Mapping[str, Any]) -> None:
        """Queue a job in the caller's transaction, which has seen that its product is not there.

        A known id is the same job; one that has ended is done again.
        """

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """End a job; its child process is killed soon. Nothing happens to a job that has ended."""

    @abstractmethod
    def faults(self) -> list[str]:
        """Why no job would be done now; empty when one would."""


class DbosJobEngine(JobEngine):
    """Jobs as dbos workflows in the service's own database.

    Args:
        settings: of the service; with `job_workers` 0 there is no job host of its own, and others do the jobs.
        database: where the jobs are.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._client: DBOSClient | None = None
        self._host: HostProcess | None = None

    def start(self) -> None:
        """See `JobEngine.start`. Nothing happens when it is started already."""
        if self._client is not None:
            return
        queue.migrate(self._database)
        self._client = queue.client(self._database)
        if self._settings.job_workers:
            self._host = HostProcess(self._settings)

    def stop(self) -> None:
        """See `JobEngine.stop`."""
        if self._host is not None:
            self._host.stop()
            self._host = None
        if self._client is not None:
            self._client.destroy()
            self._client = None

    def submit(self, session: Session, kind: str, job_id: str, payload: Mapping[str, Any]) -> None:
        """See `JobEngine.submit`."""
        assert self._client is not None, "submit before start"
        submission = rows.put(session, job_id, kind, payload, first=_first_submission())
        if submission is not None:
            queue.enqueue(self._client, session, kind, job_id, submission)

    def cancel(self, job_id: str) -> None:
        """See `JobEngine.cancel`: the job's host reads the row every quarter of a second."""
        with self._database.session() as session:
            rows.cancel(session, job_id)

    def faults(self) -> list[str]:
        """See `JobEngine.faults`."""
        with self._database.session() as session:
            if executors.alive(session, queue.SILENCE_S):
                return []
        start = "its own job host is starting" if self._settings.job_workers else "start one with: onceforall worker"
        return [f"no job host gave a sign of life within {queue.SILENCE_S:g} s; {start}"]


def _first_submission() -> int:
    """Greater than any number that the same job had before it was forgotten: dbos may still know those workflows.

    In milliseconds, because a small job is done, forgotten and asked for again within the same second.
    """
    return int((time.time() - _EPOCH_S) * 1000)


class HostProcess:
    """A job host as a child of this process, started again whenever it ends, until `stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process = self._started()
        self._watcher = threading.Thread(target=self._watch, name="job-host", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Let it put its jobs back, then end it."""
        with self._lock:
            self._stopping.set()
            process = self._process
        with contextlib.suppress(OSError):
            _stdin(process).close()  # it ends when its standard input does
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            _log.error("job_host_killed", pid=process.pid, seconds=_STOP_S)
            process.kill()
            process.wait()
        self._watcher.join(timeout=_STOP_S)

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.jobs.host"],
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C in the terminal is the service's, which then ends its host in order
        )
        with contextlib.suppress(OSError):
            _stdin(process).write(json.dumps(self._settings.model_dump(mode="json")) + "\n")
            _stdin(process).flush()
        return process

    def _watch(self) -> None:
        while True:
            status = self._process.wait()
            with contextlib.suppress(OSError):
                _stdin(self._process).close()
            if self._stopping.is_set():
                return
            _log.error("job_host_ended", status=status)
            while not self._stopping.wait(_RESTART_S):
                with self._lock:
                    if self._stopping.is_set():
                        return
                    try:
                        self._process = self._started()
                        break
                    except OSError as error:
                        _log.error("job_host_not_started", error=str(error))


def new_executor_id(host: str) -> str:
    """An id that no host had before."""
    return f"{host[:40]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin
