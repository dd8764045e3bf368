"""Runs one job at a time in a child process, and writes down how it goes; knows nothing of queues."""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog

from service import logs
from service.domain import Job
from service.jobs.children import Children, JobProcess
from service.pruning_spec import PRUNE_NETWORK
from service.settings import Settings
from service.storage import jobs as rows
from service.storage.database import Database
from service.storage.jobs import Run

MAX_ATTEMPTS = 3
_LOOK_S = 0.25
"""How often the row of a running job is read, so that a cancelled job or one that has moved ends within that time."""
_PAUSE_S = 1.0
_log = structlog.get_logger(__name__)


class JobRunner:
    """Runs jobs; safe to share between threads, each of which runs one.

    Args:
        settings: of the service.
        database: where the jobs are.
        children: who does them.
        executor: id of this host.
    """

    def __init__(self, settings: Settings, database: Database, children: Children, executor: str) -> None:
        self._settings = settings
        self._database = database
        self._children = children
        self._executor = executor
        self._stopping = threading.Event()
        self._following: dict[Run, int] = {}
        self._lock = threading.Lock()

    @property
    def following(self) -> frozenset[Run]:
        """What threads of this runner work on."""
        with self._lock:
            return frozenset(self._following)

    def stop(self) -> None:
        """Let go of all jobs: their children should be ended now, and `run` returns without an end for the job."""
        self._stopping.set()

    def run(self, job_id: str, submission: int) -> None:
        """Run a job to its end, over up to `MAX_ATTEMPTS` processes. Does nothing where the job is not to be run by us.

        A full disk, a database that refuses, a process that cannot be started: it goes on when that is over, and the
        attempts on the way count only where a process began to work. A process whose store is away fails the job only
        at the last attempt.
        """
        run = Run(job_id, submission, self._executor)
        with self._lock:
            self._following[run] = self._following.get(run, 0) + 1
        try:
            reason = "the service lost sight of it; see its log"
            while not self._stopping.is_set():
                try:
                    with self._children.lent() as child:
                        ended = self._attempt(run, child, reason)
                    if ended is None:
                        return
                    reason = ended
                except Exception as error:
                    _log.error("job_not_followed", job_id=job_id, exc_info=error)
                    self._stopping.wait(_PAUSE_S)
        finally:
            with self._lock:
                self._following[run] -= 1
                if not self._following[run]:
                    del self._following[run]

    def _attempt(self, run: Run, child: JobProcess, reason: str) -> str | None:
        """One process's try; None when nothing is left to do, otherwise why the process ended early."""
        with self._database.session() as session:
            job = rows.claim(session, run, most_attempts=MAX_ATTEMPTS, reason=reason)
        if job is None:
            return None
        try:
            with logs.of_job(job.id, job.payload):
                _log.info("job_started", kind=job.kind, attempt=job.attempts)
                ended = self._follow(run, job, child)
                if ended is not None:
                    _log.warning("job_process_ended", reason=ended)
                return ended
        except BaseException:
            child.kill()  # nobody can tell what it does now; the job is still marked as running, and is claimed again
            raise

    def _follow(self, run: Run, job: Job, child: JobProcess) -> str | None:
        child.send({"job_id": job.id, "kind": job.kind, "payload": dict(job.payload), "executor": self._executor})
        name = "prune_timeout_s" if job.kind == PRUNE_NETWORK else "job_timeout_s"
        seconds: float = getattr(self._settings, name)
        deadline = time.monotonic() + seconds
        while True:
            event = child.next_event(min(_LOOK_S, deadline - time.monotonic()))
            if self._stopping.is_set():
                child.kill()
                return None
            if event is None and time.monotonic() >= deadline:
                child.kill()
                message = f"job {job.id[:12]} took more than {seconds:g} s; raise ONCEFORALL_{name.upper()}"
                self._note(run, {"event": "failed", "error": {"kind": "timeout", "message": message}})
                return None
            if event is not None and event.get("event") not in ("progress", "done", "failed"):
                return f"its process ended with status {child.kill()}"
            if event is not None and event.get("transient") and job.attempts < MAX_ATTEMPTS:
                self._stopping.wait(_PAUSE_S * 2 ** (job.attempts - 1))
                return str(event["error"]["message"])
            if not self._note(run, event):  # cancelled, or moved to another host
                child.kill()
                _log.info("job_left", why="it was cancelled, or another host has it")
                return None
            if event is not None and event["event"] != "progress":
                return None

    def _note(self, run: Run, event: dict[str, Any] | None) -> bool:
        """Write an event down; whether the job is (or was, until this event) this run's."""
        with self._database.session() as session:
            match event:
                case None:
                    return rows.is_running(session, run)
                case {"event": "progress", "stage": stage, "fraction": fraction}:
                    return rows.report(session, run, stage, fraction)
                case {"event": "done", "result": result}:
                    _log.info("job_succeeded", **result)
                    return rows.succeed(session, run, result)
                case {"event": "failed", "error": error}:
                    _log.warning("job_failed", error=error)
                    return rows.fail(session, run, error)
        raise ValueError(f"an event of a job's process cannot be read: {event!r}")
