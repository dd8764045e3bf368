"""The job engine in hard times: children that are slow to end, a database that refuses, processes that do not start."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_service import small_settings
from sqlalchemy.orm import Session

from service import jobs
from service.domain import Job, JobState
from service.jobs import EmbeddedJobEngine
from service.settings import Settings
from service.storage import jobs as rows
from service.storage.database import Database
from supernet.errors import StorageError


class Child:
    """A child that does what the test says: it notes its jobs, and answers when told to."""

    made: ClassVar[list[Child]] = []
    refusals: ClassVar[list[Exception]] = []

    def __init__(self, settings: Settings) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.jobs: list[str] = []
        self.alive = True
        self.lingers = False
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.made.append(self)

    def send(self, message: Mapping[str, Any]) -> None:
        self.jobs.append(message["job_id"])

    def next_event(self, timeout_s: float) -> dict[str, Any]:
        return self.events.get(timeout=timeout_s)

    def kill(self) -> int:
        if self.alive and not self.lingers:
            self.events.put({"event": "end"})
        self.alive = False
        return -9


class FragileDatabase(Database):
    """A database that refuses while `broken`."""

    broken = False

    def session(self) -> AbstractContextManager[Session]:
        if self.broken:
            raise StorageError("the disk is full")
        return super().session()


@pytest.fixture(autouse=True)
def _fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    Child.made, Child.refusals = [], []
    monkeypatch.setattr(jobs, "Child", Child)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FragileDatabase]:
    database = FragileDatabase(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    database.migrate()
    yield database
    database.close()


@contextmanager
def running(database: Database, folder: Path, *, workers: int = 1) -> Iterator[EmbeddedJobEngine]:
    engine = EmbeddedJobEngine(small_settings(folder, job_workers=workers), database)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def submit(engine: EmbeddedJobEngine, database: Database, job_id: str) -> None:
    with database.session() as session:
        engine.submit(session, "kind", job_id, {})
    engine.wake()


def find(database: Database, job_id: str) -> Job:
    with database.session() as session:
        job = rows.get(session, job_id)
    assert job is not None
    return job


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def children_with(job_id: str) -> list[Child]:
    return [child for child in Child.made if job_id in child.jobs]


def test_a_job_that_the_full_disk_interrupted_runs_again_once_there_is_space(
    tmp_path: Path, database: FragileDatabase
) -> None:
    with running(database, tmp_path) as engine:
        submit(engine, database, "a")
        wait_for(lambda: children_with("a"))
        database.broken = True
        children_with("a")[0].events.put({"event": "progress", "stage": "searching", "fraction": 0.5})
        wait_for(lambda: not children_with("a")[0].alive)
        database.broken = False
        wait_for(lambda: len(children_with("a")) == 2)
        children_with("a")[1].events.put({"event": "done", "result": {"answer": 1}})
        wait_for(lambda: find(database, "a").state.is_final)
    job = find(database, "a")
    assert (job.state, job.attempts, job.result) == (JobState.SUCCEEDED, 2, {"answer": 1})


@pytest.mark.parametrize("refusal", [OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")])
def test_a_child_that_cannot_be_started_does_not_end_the_engine_nor_count_as_an_attempt(
    tmp_path: Path, database: FragileDatabase, refusal: Exception
) -> None:
    Child.refusals = [refusal]
    with running(database, tmp_path) as engine:
        submit(engine, database, "a")
        wait_for(lambda: children_with("a"))
        children_with("a")[0].events.put({"event": "done", "result": {}})
        wait_for(lambda: find(database, "a").state is JobState.SUCCEEDED)
    assert find(database, "a").attempts == 1


def test_a_malformed_event_costs_an_attempt_and_not_the_engine(tmp_path: Path, database: FragileDatabase) -> None:
    with running(database, tmp_path) as engine:
        submit(engine, database, "a")
        wait_for(lambda: children_with("a"))
        children_with("a")[0].events.put({"event": "progress", "stage": "searching", "fraction": "half"})
        wait_for(lambda: len(children_with("a")) == 2)
        children_with("a")[1].events.put({"event": "done", "result": {}})
        wait_for(lambda: find(database, "a").state is JobState.SUCCEEDED)


def test_a_cancelled_job_that_is_asked_for_again_waits_until_its_first_run_has_ended(
    tmp_path: Path, database: FragileDatabase
) -> None:
    with running(database, tmp_path, workers=2) as engine:
        submit(engine, database, "a")
        wait_for(lambda: children_with("a"))
        first = children_with("a")[0]
        first.lingers = True
        engine.cancel("a")
        submit(engine, database, "a")
        submit(engine, database, "b")
        wait_for(lambda: children_with("b"))  # so the other worker has looked
        assert children_with("a") == [first]
        assert find(database, "a").state is JobState.QUEUED
        first.events.put({"event": "end"})
        wait_for(lambda: len(children_with("a")) == 2)
        children_with("a")[1].events.put({"event": "done", "result": {}})
        wait_for(lambda: find(database, "a").state is JobState.SUCCEEDED)
        assert find(database, "a").attempts == 1
        children_with("b")[0].events.put({"event": "done", "result": {}})
        for name in "cd":  # both workers still work
            submit(engine, database, name)
        wait_for(lambda: children_with("c") and children_with("d"))


def test_a_job_that_another_worker_follows_is_not_taken_for_lost(tmp_path: Path, database: FragileDatabase) -> None:
    with running(database, tmp_path, workers=2) as engine:
        submit(engine, database, "a")
        wait_for(lambda: children_with("a"))
        for name in "bcd":
            submit(engine, database, name)
            wait_for(lambda name=name: children_with(name))
            children_with(name)[0].events.put({"event": "done", "result": {}})
        wait_for(lambda: find(database, "d").state is JobState.SUCCEEDED)
        assert len(children_with("a")) == 1
        assert (find(database, "a").state, find(database, "a").attempts) == (JobState.RUNNING, 1)


def test_any_number_of_restarts_costs_a_job_no_attempt(tmp_path: Path, database: FragileDatabase) -> None:
    with database.session() as session:
        rows.put(session, "a", "kind", {})
    for number in range(jobs.MAX_ATTEMPTS + 1):
        with running(database, tmp_path):
            wait_for(lambda number=number: len(children_with("a")) == number + 1)
        job = find(database, "a")
        assert (job.state, job.attempts, job.stage) == (JobState.QUEUED, 0, "queued")
