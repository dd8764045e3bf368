"""Jobs: work that outlives a request, each run in a child process that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy.orm import Session

from service.domain import Job, JobState
from service.settings import Settings
from service.storage import jobs as rows
from service.storage.database import Database

MAX_ATTEMPTS = 3
_log = structlog.get_logger(__name__)


class JobEngine(ABC):
    """Runs jobs. Every job's state is in the `jobs` table, which is what users see.

    One engine at a time works on a database; `Context.start` sees to that.
    """

    @abstractmethod
    def start(self) -> None:
        """Begin to run jobs; those that an ended service left unfinished run again.

        Raises:
            StorageError: the database cannot be written.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop running jobs; unfinished ones go on at the next start."""

    @abstractmethod
    def submit(self, session: Session, kind: str, job_id: str, payload: Mapping[str, Any]) -> None:
        """Queue a job in the caller's transaction. A known id is the same job, unless that one failed or was cancelled.

        Call `wake` once the transaction is committed.
        """

    @abstractmethod
    def wake(self) -> None:
        """Look for queued jobs now."""

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """End a job; its child process is killed. Nothing happens to a job that has ended."""


class EmbeddedJobEngine(JobEngine):
    """Jobs of one service process: threads that hand them to warm child processes, one each.

    A child process imports torch once (2 s) and then serves one job after another. It is killed on cancel and on
    timeout, and ends by itself when this process dies, because its standard input then ends.

    `_children` holds every job that a thread of this engine follows. A job that is marked as running and is not among
    them has been lost (the database refused while it was followed, or the service died), and runs again. A job that is
    among them is not claimed, even where it waits: it was cancelled and submitted again, and its first run still ends.

    Args:
        settings: of the service.
        database: where the jobs are.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._threads: list[threading.Thread] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._claiming = threading.Lock()
        self._children: dict[str, Child] = {}

    def start(self) -> None:
        """See `JobEngine.start`. Nothing happens when it is started already."""
        if self._threads:
            return
        with self._database.session() as session:
            self._recover(session, "the service ended while the job ran")
        self._stopping = False
        for number in range(self._settings.job_workers):
            thread = threading.Thread(target=self._work, name=f"jobs-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """See `JobEngine.stop`."""
        with self._wake:
            self._stopping = True
            for child in self._children.values():
                child.kill()
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)
        self._threads.clear()

    def submit(self, session: Session, kind: str, job_id: str, payload: Mapping[str, Any]) -> None:
        """See `JobEngine.submit`."""
        rows.put(session, job_id, kind, payload)

    def wake(self) -> None:
        """See `JobEngine.wake`."""
        with self._wake:
            self._wake.notify_all()

    def cancel(self, job_id: str) -> None:
        """See `JobEngine.cancel`."""
        with self._database.session() as session:
            rows.cancel(session, job_id)
        with self._wake:
            child = self._children.get(job_id)
            if child is not None:
                child.kill()

    def _recover(self, session: Session, reason: str) -> None:
        for job in rows.running(session):
            if job.id not in self._children:
                self._try_again(session, job, reason)

    def _try_again(self, session: Session, job: Job, reason: str) -> None:
        if job.attempts < MAX_ATTEMPTS:
            rows.requeue(session, job.id)
        else:
            message = (
                f"job {job.id[:12]} was given up after {job.attempts} attempts: {reason}; submit the request again"
            )
            rows.fail(session, job.id, {"kind": "crash", "message": message})

    def _work(self) -> None:
        child: Child | None = None
        try:
            while not self._stopping:
                try:
                    if child is None or not child.alive:  # before the claim, so that it is warm when a job comes
                        child = self._renew(child)
                    job = self._claim(child)
                    if job is not None:
                        self._run(job, child)
                        continue
                except Exception as error:  # a full disk, memory or process table must not end the thread
                    _log.error("job_engine_error", exc_info=error)
                with self._wake:
                    if not self._stopping:
                        self._wake.wait(timeout=1)  # a timeout, because a wake-up before the wait is lost
        finally:
            if child is not None:
                child.kill()

    def _renew(self, child: Child | None) -> Child:
        if child is not None:
            child.kill()  # it is dead; this closes its pipes
        return Child(self._settings)

    def _claim(self, child: Child) -> Job | None:
        """The next job, already among `_children`. One thread at a time: what runs and what is followed must agree."""
        with self._claiming:
            with self._wake:
                followed = list(self._children)
            with self._database.session() as session:
                self._recover(session, "the service lost sight of it; see its log")
                job = rows.claim(session, besides=followed)
            if job is not None:
                with self._wake:
                    self._children[job.id] = child
                    if self._stopping:
                        child.kill()
            return job

    def _run(self, job: Job, child: Child) -> None:
        """Run one claimed job to its end."""
        try:
            with self._database.session() as session:
                current = rows.get(session, job.id)
            if current is not None and current.state is JobState.RUNNING:  # not cancelled before the child was known
                self._follow(job, child)
        except Exception:
            child.kill()  # nobody can tell what it does now; the job is still marked as running, and is recovered
            raise
        finally:
            with self._wake:
                del self._children[job.id]

    def _follow(self, job: Job, child: Child) -> None:
        child.send({"job_id": job.id, "kind": job.kind, "payload": dict(job.payload)})
        deadline = time.monotonic() + self._settings.job_timeout_s
        while True:
            event = child.next_event(deadline - time.monotonic())
            with self._database.session() as session:
                match event:
                    case {"event": "progress", "stage": stage, "fraction": fraction}:
                        rows.report(session, job.id, stage, fraction)
                        continue
                    case {"event": "done", "result": result}:
                        rows.succeed(session, job.id, result)
                    case {"event": "failed", "error": error}:
                        rows.fail(session, job.id, error)
                    case {"event": "timeout"}:
                        child.kill()
                        seconds = self._settings.job_timeout_s
                        message = f"job {job.id[:12]} took more than {seconds:g} s; raise ONCEFORALL_JOB_TIMEOUT_S"
                        rows.fail(session, job.id, {"kind": "timeout", "message": message})
                    case _ if self._stopping:
                        rows.put_back(session, job.id)  # a restart is no fault of the job's
                    case _:
                        # A cancelled job is not "running" any more, so neither branch touches it.
                        self._try_again(session, job, f"its process ended with status {child.kill()}")
            return


class Child:
    """A warm child process that runs one job after another: JSON lines in, JSON lines out."""

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

    def next_event(self, timeout_s: float) -> dict[str, Any]:
        """Wait for one event; {"event": "end"} when the process ended, {"event": "timeout"} when time is up."""
        try:
            return self._events.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return {"event": "timeout"}

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


def child_environment(threads: int) -> dict[str, str]:
    """Variables of a child process: the parent's modules, and a cap on threads before torch makes any."""
    paths = os.pathsep.join(filter(None, sys.path))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
