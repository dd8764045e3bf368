"""A job host: takes jobs off the queue, runs them in child processes, and takes over those of hosts that died.

The service starts one as `python -m service.jobs.host`; its first line of standard input is the settings, and it ends
when its standard input ends, because then the service is gone or stops. `onceforall worker` is the same in the
foreground.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy.orm import Session

from service import logs, retention, runs
from service.folder import clear_leftovers, forget_pruning_folders
from service.jobs import queue
from service.jobs.children import Child, Children
from service.jobs.engine import new_executor_id
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.storage import executors, staging
from service.storage import jobs as rows
from service.storage.artifacts import ArtifactStore, open_artifacts
from service.storage.database import Database

_log = structlog.get_logger("service.jobs.host")  # run as a program, this module has no name of its own
_UNFOLLOWED_S = 10.0
_TIDY_S = 60.0
_KEPT_S = 3600.0
_PAGE = 500
_JOIN_S = 5.0


class JobHost:
    """One host of jobs. `start` once, `stop` once; a process has at most one, because dbos is one to a process.

    Args:
        settings: of the service.
        make_child: starts a child process.
    """

    def __init__(self, settings: Settings, make_child: Callable[[Settings], Child] = Child) -> None:
        self._settings = settings
        self._name = socket.gethostname()
        self.executor = new_executor_id(self._name)
        self._database = Database(settings.resolved_database_url)
        self._artifacts: ArtifactStore = open_artifacts(settings.resolved_artifact_url)
        short = Children(settings.job_workers, lambda: make_child(settings))
        long = Children(settings.prune_workers, lambda: make_child(settings), warm=False)
        self._children = (short, long)
        self._runners = {
            queue.SHORT: JobRunner(settings, self._database, short, self.executor),
            queue.LONG: JobRunner(settings, self._database, long, self.executor),
        }
        self._client = queue.client(self._database)
        self._stopping = threading.Event()
        self._unfollowed: dict[str, float] = {}
        self._dead: set[str] = set()
        self._untidy = threading.Event()
        # Threads of their own, so that neither a slow store nor other hosts' jobs ever keep this host from giving a
        # sign of life: without one for five seconds, it would lose its jobs.
        self._threads = [
            threading.Thread(target=self._again_and_again, args=(work, pause), name=name, daemon=True)
            for name, work, pause in (
                ("beat", self._beat, partial(self._stopping.wait, queue.BEAT_S)),
                ("watch", self._watch, partial(self._stopping.wait, queue.BEAT_S)),
                ("tidy", self._tidy, self._until_untidy),
            )
        ]

    def start(self) -> None:
        """Take jobs off the queue from now on.

        Raises:
            StorageError: the database cannot be written, or has no schema of this version yet (the API makes it).
        """
        from dbos import DBOS

        self._beat()
        if self._database.is_sqlite:  # one host at a time: the service holds the data folder
            with self._database.session() as session:
                dead = executors.others(session, self.executor)
            self._take_over(dead)
        DBOS(config=queue.configuration(self._database, self.executor))

        workers = {queue.SHORT: self._settings.job_workers, queue.LONG: self._settings.prune_workers}
        taken = [lane for lane, count in workers.items() if count]
        for lane in taken:
            # attempts are counted in the job's row
            DBOS.workflow(name=lane.workflow, max_recovery_attempts=None)(_workflow(self._runners[lane]))
        DBOS.listen_queues([lane.name for lane in taken])  # before the launch; otherwise to those of other hosts too
        DBOS.launch()
        self._take_up_forgotten()
        self._keep_going()
        for lane in taken:
            DBOS.register_queue(lane.name, worker_concurrency=workers[lane], polling_interval_sec=lane.poll_s)

    def stop(self) -> None:
        """Put the running jobs back into the queue as if they had not been begun. The process should end after this."""
        from dbos import DBOS

        self._stopping.set()
        logging.getLogger("dbos").setLevel(logging.CRITICAL)  # it reports every workflow that ends after this
        DBOS.destroy()  # takes nothing more off the queue
        for runner in self._runners.values():
            runner.stop()
        for children in self._children:
            children.close()
        self._come_to_rest()
        self._release([self.executor], uncounted=True)

    # -- signs of life -------------------------------------------------------------------------------------------

    def _keep_going(self) -> None:
        for thread in self._threads:
            thread.start()

    def _come_to_rest(self) -> None:
        self._stopping.set()
        self._untidy.set()
        for thread in self._threads:
            thread.join(timeout=_JOIN_S)

    def _again_and_again(self, work: Callable[[], None], pause: Callable[[], object]) -> None:
        while not self._stopping.is_set():
            try:
                work()
            except Exception as error:  # a full disk or a lost connection must not end it
                _log.error("job_host_error", executor=self.executor, exc_info=error)
            pause()

    def _until_untidy(self) -> None:
        self._untidy.wait(_TIDY_S)
        self._untidy.clear()

    def _watch(self) -> None:
        with self._database.session() as session:
            silent = executors.silent(session, queue.SILENCE_S)
        self._take_over([executor for executor in silent if executor != self.executor])
        self._take_up_unfollowed()

    def _beat(self) -> None:
        with self._database.session() as session:
            executors.beat(session, self.executor, host=self._name, pid=os.getpid())

    def _take_over(self, dead: list[str]) -> None:
        if dead:
            _log.warning("job_hosts_died", executors=dead)
            self._release(dead, uncounted=False)
            self._dead.update(dead)
            self._untidy.set()

    def _release(self, gone: list[str], *, uncounted: bool) -> None:
        """Put back what these hosts took off the queue, and forget them. Doing so twice, or by two hosts, is once."""
        taken = [name for host in gone for name in self._pending(host)]
        with self._database.session() as session:
            claimed = rows.running_at(session, gone)
            self._again(session, {*claimed, *map(queue.job_of, taken)}, uncounted=uncounted)
            for executor in gone:
                executors.remove(session, executor)
        if taken:
            self._client.delete_workflows(taken)

    def _again(self, session: Session, submissions: Iterable[tuple[str, int]], *, uncounted: bool = False) -> None:
        for job_id, submission in sorted(submissions):
            following = rows.submit_again(session, job_id, submission, uncounted=uncounted)
            job = None if following is None else rows.get(session, job_id)
            if job is not None and following is not None:
                queue.enqueue(self._client, session, job.kind, job_id, following)

    def _pending(self, executor: str) -> list[str]:
        """Ids of the workflows that a host took off the queue and that have not ended."""
        found = self._client.list_workflows(
            status="PENDING",
            executor_id=executor,
            queue_name=[lane.name for lane in self._runners],
            load_input=False,
            load_output=False,
        )
        return [flow.workflow_id for flow in found]

    def _take_up_forgotten(self) -> None:
        """Queue the waiting jobs that no workflow stands for: an older version's, or such as should not exist."""
        with self._database.session() as session:
            waiting = rows.waiting(session, _PAGE)
        if waiting:
            names = [queue.workflow_id(*each) for each in waiting]
            found = self._client.list_workflows(workflow_ids=names, load_input=False, load_output=False)
            alive = {flow.workflow_id for flow in found if flow.status in ("ENQUEUED", "PENDING", "DELAYED")}
            with self._database.session() as session:
                self._again(session, [each for each, name in zip(waiting, names, strict=True) if name not in alive])

    def _take_up_unfollowed(self) -> None:
        """Put back what dbos took off the queue for this host and could not start, because the database refused."""
        followed = {
            queue.workflow_id(run.job_id, run.submission)
            for runner in self._runners.values()
            for run in runner.following
        }
        pending = set(self._pending(self.executor)) - followed
        now = time.monotonic()
        self._unfollowed = {name: self._unfollowed.get(name, now) for name in pending}
        lost = [name for name, since in self._unfollowed.items() if now - since > _UNFOLLOWED_S]
        if lost:
            with self._database.session() as session:
                self._again(session, map(queue.job_of, lost))
            self._client.delete_workflows(lost)

    def _tidy(self) -> None:
        """Remove what dead hosts and limits leave behind, and forget workflows that ended an hour ago: the rows of
        their jobs say all that anybody asks for.
        """
        dead = set(self._dead)
        staging.sweep(self._database, self._artifacts, processes=dead, older_than_s=staging.GRACE_S)
        self._dead -= dead
        self._take_up_forgotten()
        limits = retention.Limits.of(self._settings)
        if limits != retention.Limits():
            retention.clean(self._database, self._artifacts, limits)
        forget_pruning_folders(self._settings.cache_dir, self._is_active, older_than_s=_KEPT_S)
        clear_leftovers(self._settings.cache_dir)
        runs.forget_deleted(self._database, self._settings.cache_dir)
        before = (datetime.now(UTC) - timedelta(seconds=_KEPT_S)).isoformat()
        old = self._client.list_workflows(completed_before=before, load_input=False, load_output=False, limit=_PAGE)
        if old:
            self._client.delete_workflows([flow.workflow_id for flow in old])

    def _is_active(self, job_id: str) -> bool:
        with self._database.session() as session:
            job = rows.get(session, job_id)
        return job is not None and not job.state.is_final


def _workflow(runner: JobRunner) -> Callable[[str, int], None]:
    def run_job(job_id: str, submission: int) -> None:
        runner.run(job_id, submission)

    return run_job


def run(settings: Settings, stop: threading.Event, on_ready: Callable[[str], None] = lambda _name: None) -> None:
    """Be a job host until `stop` is set. The data folder is held by who calls, or started the process.

    Args:
        settings: of the service.
        stop: ends it.
        on_ready: called once with the host's id, when it takes jobs.

    Raises:
        StorageError: the database or the artefact store cannot be used.
    """
    host = JobHost(settings)
    host.start()
    on_ready(host.executor)
    stop.wait()
    host.stop()


def main() -> None:
    """Be the service's own job host."""
    settings = Settings(**json.loads(sys.stdin.readline()))
    logs.configure(settings)
    stop = threading.Event()

    def until_the_service_ends() -> None:
        with contextlib.suppress(OSError):
            while sys.stdin.readline():
                pass
        stop.set()

    threading.Thread(target=until_the_service_ends, daemon=True).start()
    run(settings, stop)
    sys.stderr.flush()
    os._exit(0)  # dbos's threads wait for workflows that will never end here


if __name__ == "__main__":
    main()
