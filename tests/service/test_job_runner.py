"""Running jobs in hard times: processes slow to end, a database that refuses, processes that do not start."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_service import small_settings
from sqlalchemy.orm import Session

from service.domain import Job, JobState
from service.jobs.children import Children
from service.jobs.runner import MAX_ATTEMPTS, JobRunner
from service.pruning_spec import PRUNE_NETWORK
from service.storage import jobs as rows
from service.storage.database import Database
from supernet.errors import StorageError

HOST = "host"


class Child:
    """A process that does what the test says: it notes its jobs, and answers when told to."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.alive = True
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def send(self, message: Mapping[str, Any]) -> None:
        self.jobs.append(message["job_id"])

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        try:
            return self.events.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def kill(self) -> int:
        if self.alive:
            self.events.put({"event": "end"})
        self.alive = False
        return -9


class FragileDatabase(Database):
    """A database that refuses while `broken`."""

    broken = False

    def session(self, *, exclusive: bool = False) -> AbstractContextManager[Session]:
        if self.broken:
            raise StorageError("the disk is full")
        return super().session(exclusive=exclusive)


class Host:
    """A runner, its processes, and a thread for every job that it runs."""

    def __init__(self, database: Database, folder: Path, *, workers: int = 1, **settings: object) -> None:
        self.made: list[Child] = []
        self.refusals: list[Exception] = []
        self.children = Children(workers, self._make)
        self.runner = JobRunner(small_settings(folder, **settings), database, self.children, HOST)
        self.threads: list[threading.Thread] = []

    def _make(self) -> Child:
        if self.refusals:
            raise self.refusals.pop()
        child = Child()
        self.made.append(child)
        return child

    def run(self, job_id: str, submission: int = 1) -> threading.Thread:
        thread = threading.Thread(target=self.runner.run, args=(job_id, submission), daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread

    def with_job(self, job_id: str) -> list[Child]:
        return [child for child in self.made if job_id in child.jobs]

    def stop(self) -> None:
        self.runner.stop()
        self.children.close()
        for thread in self.threads:
            thread.join(timeout=5)
            assert not thread.is_alive()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FragileDatabase]:
    database = FragileDatabase(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    database.migrate()
    yield database
    database.close()


@contextmanager
def running(database: Database, folder: Path, *, workers: int = 1, **settings: object) -> Iterator[Host]:
    host = Host(database, folder, workers=workers, **settings)
    try:
        yield host
    finally:
        host.stop()


def put(database: Database, *job_ids: str) -> None:
    with database.session() as session:
        for job_id in job_ids:
            rows.put(session, job_id, "kind", {})


def find(database: Database, job_id: str) -> Job:
    with database.session() as session:
        job = rows.get(session, job_id)
    assert job is not None
    return job


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def test_a_job_that_the_full_disk_interrupted_runs_again_once_there_is_space(
    tmp_path: Path, database: FragileDatabase
) -> None:
    put(database, "a")
    with running(database, tmp_path) as host:
        thread = host.run("a")
        wait_for(lambda: host.with_job("a"))
        database.broken = True
        host.with_job("a")[0].events.put({"event": "progress", "stage": "searching", "fraction": 0.5})
        wait_for(lambda: not host.with_job("a")[0].alive)
        database.broken = False
        wait_for(lambda: len(host.with_job("a")) == 2)
        host.with_job("a")[1].events.put({"event": "done", "result": {"answer": 1}})
        thread.join(timeout=10)
    job = find(database, "a")
    assert (job.state, job.attempts, job.result) == (JobState.SUCCEEDED, 2, {"answer": 1})


def test_a_store_that_is_away_fails_a_job_at_the_last_attempt_only(
    tmp_path: Path, database: FragileDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.runner._PAUSE_S", 0.01)
    away = {"event": "failed", "error": {"kind": "StorageError", "message": "the bucket is away"}, "transient": True}
    put(database, "back again", "away for good")
    with running(database, tmp_path) as host:
        for job_id, events in (
            ("back again", [away, away, {"event": "done", "result": {"answer": 1}}]),
            ("away for good", [away] * 3),
        ):
            before = len(host.made[0].jobs) if host.made else 0
            thread = host.run(job_id)
            for number, event in enumerate(events, before + 1):
                wait_for(lambda number=number: host.made and len(host.made[0].jobs) == number)
                host.made[0].events.put(event)
            thread.join(timeout=10)
    job = find(database, "back again")
    assert (job.state, job.attempts, job.result) == (JobState.SUCCEEDED, MAX_ATTEMPTS, {"answer": 1})
    job = find(database, "away for good")
    assert (job.state, job.attempts, job.error) == (JobState.FAILED, MAX_ATTEMPTS, away["error"])


@pytest.mark.parametrize("refusal", [OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")])
def test_a_process_that_cannot_be_started_does_not_end_the_host_nor_count_as_an_attempt(
    tmp_path: Path, database: FragileDatabase, refusal: Exception
) -> None:
    put(database, "a")
    with running(database, tmp_path) as host:
        wait_for(lambda: host.made)
        host.made[0].kill()
        host.refusals = [refusal]
        thread = host.run("a")
        wait_for(lambda: host.with_job("a"))
        host.with_job("a")[0].events.put({"event": "done", "result": {}})
        thread.join(timeout=10)
    assert (find(database, "a").state, find(database, "a").attempts) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize(
    "event", [{"event": "progress", "stage": "searching", "fraction": "half"}, {"event": "progress"}, {}]
)
def test_a_malformed_event_costs_an_attempt_and_not_the_host(
    tmp_path: Path, database: FragileDatabase, event: dict[str, Any]
) -> None:
    put(database, "a")
    with running(database, tmp_path) as host:
        thread = host.run("a")
        wait_for(lambda: host.with_job("a"))
        host.with_job("a")[0].events.put(event)
        wait_for(lambda: len(host.with_job("a")) == 2)
        host.with_job("a")[1].events.put({"event": "done", "result": {}})
        thread.join(timeout=10)
    assert (find(database, "a").state, find(database, "a").attempts) == (JobState.SUCCEEDED, 2)


def test_a_job_whose_process_dies_three_times_is_given_up_and_the_next_one_runs(
    tmp_path: Path, database: FragileDatabase
) -> None:
    put(database, "a" * 64, "b")
    with running(database, tmp_path) as host:
        first, second = host.run("a" * 64), None
        for number in range(MAX_ATTEMPTS):
            wait_for(lambda number=number: len(host.with_job("a" * 64)) == number + 1)
            host.with_job("a" * 64)[number].kill()
        first.join(timeout=10)
        second = host.run("b")
        wait_for(lambda: host.with_job("b"))
        host.with_job("b")[0].events.put({"event": "done", "result": {}})
        second.join(timeout=10)
    job = find(database, "a" * 64)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["message"] == (
        f"job {'a' * 12} was given up after 3 attempts: its process ended with status -9; submit the request again"
    )
    assert find(database, "b").state is JobState.SUCCEEDED


def test_a_job_that_takes_too_long_is_ended_with_its_process(tmp_path: Path, database: FragileDatabase) -> None:
    put(database, "a")
    with running(database, tmp_path, job_timeout_s=0.3) as host:
        host.run("a").join(timeout=10)
        assert not host.with_job("a")[0].alive
    job = find(database, "a")
    assert job.error is not None
    assert (job.state, job.error["kind"]) == (JobState.FAILED, "timeout")
    assert job.error["message"] == "job a took more than 0.3 s; raise ONCEFORALL_JOB_TIMEOUT_S"


def test_a_pruning_run_has_a_limit_of_its_own(tmp_path: Path, database: FragileDatabase) -> None:
    with database.session() as session:
        rows.put(session, "a", PRUNE_NETWORK, {})
    with running(database, tmp_path, job_timeout_s=0.01, prune_timeout_s=0.3) as host:
        host.run("a").join(timeout=10)
    error = find(database, "a").error
    assert error is not None
    assert error["message"] == "job a took more than 0.3 s; raise ONCEFORALL_PRUNE_TIMEOUT_S"


def test_processes_that_are_not_kept_warm_are_made_for_a_job_and_ended_after_it() -> None:
    made: list[Child] = []

    def make() -> Child:
        made.append(Child())
        return made[-1]

    children = Children(1, make, warm=False)
    assert made == []
    for number in range(2):
        with children.lent() as child:
            assert child is made[number]
            assert child.alive
        assert not child.alive
    children.close()
    assert len(made) == 2


def test_a_cancelled_job_loses_its_process_and_can_run_again_at_once(tmp_path: Path, database: FragileDatabase) -> None:
    put(database, "a")
    with running(database, tmp_path, workers=2) as host:
        first = host.run("a")
        wait_for(lambda: host.with_job("a"))
        with database.session() as session:
            assert rows.cancel(session, "a")
            assert rows.put(session, "a", "kind", {}) == 2
        second = host.run("a", submission=2)
        first.join(timeout=10)
        assert not host.with_job("a")[0].alive
        wait_for(lambda: len(host.with_job("a")) == 2)
        host.with_job("a")[0].events.put({"event": "done", "result": {"from": "the cancelled run"}})
        host.with_job("a")[1].events.put({"event": "done", "result": {"from": "the second run"}})
        second.join(timeout=10)
    job = find(database, "a")
    assert (job.state, job.attempts, job.result) == (JobState.SUCCEEDED, 1, {"from": "the second run"})


def test_a_job_that_moved_to_another_host_is_let_go_and_nothing_that_it_says_counts(
    tmp_path: Path, database: FragileDatabase
) -> None:
    put(database, "a")
    with running(database, tmp_path) as host:
        thread = host.run("a")
        wait_for(lambda: host.with_job("a"))
        with database.session() as session:
            assert rows.submit_again(session, "a", 1) == 2
            elsewhere = rows.Run("a", 2, "other host")
            assert rows.claim(session, elsewhere, most_attempts=3, reason="") is not None
        host.with_job("a")[0].events.put({"event": "done", "result": {"from": "a host that was taken for dead"}})
        thread.join(timeout=10)
        assert not host.with_job("a")[0].alive
        assert host.runner.following == frozenset()
    job = find(database, "a")
    assert (job.state, job.attempts, job.result) == (JobState.RUNNING, 2, None)


def test_an_older_submission_or_a_job_that_has_ended_is_not_begun(tmp_path: Path, database: FragileDatabase) -> None:
    put(database, "a", "b")
    with database.session() as session:
        rows.cancel(session, "a")
        rows.put(session, "a", "kind", {})
        rows.cancel(session, "b")
    with running(database, tmp_path) as host:
        for job_id in ("a", "b", "unknown"):
            host.run(job_id, submission=1).join(timeout=10)
        assert not any(child.jobs for child in host.made)
    assert (find(database, "a").state, find(database, "a").attempts) == (JobState.QUEUED, 0)


def test_a_stopped_host_leaves_its_job_as_it_is(tmp_path: Path, database: FragileDatabase) -> None:
    put(database, "a")
    with running(database, tmp_path) as host:
        host.run("a")
        wait_for(lambda: host.with_job("a"))
    assert not host.with_job("a")[0].alive
    assert (find(database, "a").state, find(database, "a").attempts) == (JobState.RUNNING, 1)
