from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from small_service import serving, small_settings

from service.client import Client, ServiceError
from service.domain import JobState
from service.folder import DataFolder
from service.server import run
from service.storage import jobs as rows
from service.storage.database import Database
from supernet.errors import RunBusyError, StorageError

SERVE = """
import json, sys
from service.server import run
from service.settings import Settings
run(Settings(**json.loads(sys.argv[1])), on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def service_process(folder: Path, **values: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    arguments = [
        sys.executable,
        "-c",
        SERVE,
        json.dumps({"data_dir": str(folder), "port": 0, "job_threads": 1} | values),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out: IO[str] = process.stdout
        try:
            yield process, out.readline().strip()
        finally:
            process.kill()


def wait_until(client: Client, job_id: str, *, stage: str) -> None:
    for _ in range(600):
        if client.job(job_id)["stage"] == stage:
            return
        time.sleep(0.05)
    raise AssertionError(f"never {stage}: {client.job(job_id)}")


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def descendants_of(pid: int) -> list[int]:
    children = children_of(pid)
    return children + [each for child in children for each in descendants_of(child)]


def wait_for_end_of(pids: list[int]) -> None:
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError("a process outlived its service")


def test_a_job_interrupted_by_kill_9_is_done_after_the_restart_and_leaves_no_child(
    tmp_path: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    slow = {"search_population": 100, "search_generations": 1500}
    with service_process(tmp_path / "data", **slow) as (process, url), Client(url) as client:
        job_id = client.ask("noise", "macs<=4M")["id"]
        wait_until(client, job_id, stage="searching")
        processes = descendants_of(process.pid)
        assert len(processes) == 2  # the job host and its child
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for_end_of(processes)
    with service_process(tmp_path / "data", **slow) as (process, url), Client(url) as client:
        last = list(client.follow(job_id))[-1]
        assert (last["state"], last["attempts"]) == ("succeeded", 1)  # the job did not end its own host
        assert client.ask("noise", "macs<=4M")["subnet"]["measured"]["macs"] <= 4e6
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) in (0, -signal.SIGTERM)


def test_a_cancelled_job_stops_at_once_and_a_crashed_child_is_replaced(tmp_path: Path, data_folder: Path) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    settings = small_settings(
        tmp_path / "data", search_population=100, search_generations=100_000, max_active_jobs=2, max_event_streams=1
    )
    before = set(children_of(os.getpid()))
    with serving(settings) as url, Client(url, busy_s=0) as client:
        first, second = client.ask("noise", "macs<=4M")["id"], client.ask("noise", "macs<=5M")["id"]
        with pytest.raises(ServiceError, match="2 jobs wait or run") as busy:
            client.ask("noise", "macs<=6M")
        assert busy.value.status == 429
        wait_until(client, first, stage="searching")
        events = client.follow(first)
        assert next(events)["state"] == "running"
        with pytest.raises(ServiceError, match="1 event streams are open, no more are allowed"):
            next(client.follow(first))
        assert client.cancel(second)["state"] == "cancelled"  # it waits
        assert client.cancel(first)["state"] == "cancelled"  # it runs
        assert client.cancel(first)["state"] == "cancelled"  # again
        assert list(events)[-1]["state"] == "cancelled"
        assert [job["state"] for job in client.follow(first)] == ["cancelled"]

        again = client.ask("noise", "macs<=4M")
        assert again["job"]["state"] in ("queued", "running")
        with pytest.raises(ServiceError, match="has waiting or running jobs"):
            client._call("DELETE", "/supernets/noise")
        wait_until(client, first, stage="searching")
        (host,) = set(children_of(os.getpid())) - before
        (worker,) = children_of(host)
        assert len({os.getsid(pid) for pid in (0, host, worker)}) == 3  # Ctrl-C in the service's terminal ends neither
        os.kill(worker, signal.SIGKILL)
        for _ in range(200):
            if client.job(first)["attempts"] == 2:
                break
            time.sleep(0.05)
        assert client.job(first)["attempts"] == 2
        client.cancel(first)

        with pytest.raises(ServiceError, match="was cancelled; ask again"):
            client.request_subnet("noise", "macs<=7M", on_progress=lambda *_: cancel_newest(client))


def test_a_job_host_that_is_killed_is_replaced_and_its_job_goes_on(tmp_path: Path, data_folder: Path) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    slow = {"search_population": 100, "search_generations": 1500}
    with service_process(tmp_path / "data", **slow) as (process, url), Client(url) as client:
        job_id = client.ask("noise", "macs<=4M")["id"]
        wait_until(client, job_id, stage="searching")
        (host,) = children_of(process.pid)
        os.kill(host, signal.SIGKILL)
        last = list(client.follow(job_id))[-1]
        assert (last["state"], last["attempts"]) == ("succeeded", 2)
        assert children_of(process.pid) != [host]
    wait_for_end_of(descendants_of(process.pid))


def test_restarts_cost_a_job_no_attempt(tmp_path: Path, data_folder: Path) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    endless = {"search_population": 100, "search_generations": 100_000}
    job_id = ""
    for _ in range(2):
        with service_process(tmp_path / "data", **endless) as (process, url), Client(url) as client:
            if not job_id:
                job_id = client.ask("noise", "macs<=4M")["id"]
            wait_until(client, job_id, stage="searching")
            assert client.job(job_id)["attempts"] == 1
            processes = descendants_of(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        wait_for_end_of(processes)
        database = Database(small_settings(tmp_path / "data").resolved_database_url)
        with database.session() as session:
            job = rows.get(session, job_id)
        database.close()
        assert job is not None
        assert (job.state, job.attempts, job.stage) == (JobState.QUEUED, 0, "queued")


def cancel_newest(client: Client) -> None:
    client.cancel(client._call("GET", "/jobs")["items"][0]["id"])


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    database.migrate()
    yield database
    database.close()


def test_submitting_twice_is_one_job_unless_it_has_ended(database: Database) -> None:
    run = rows.Run("a", 1, "host")
    with database.session() as session:
        assert rows.put(session, "a", "kind", {"x": 1}) == 1
        assert rows.put(session, "a", "kind", {"x": 1}) is None
        assert rows.count_active(session) == 1
        claimed = rows.claim(session, run, most_attempts=3, reason="")
        assert claimed is not None
        assert (claimed.id, claimed.state, claimed.attempts, claimed.payload) == ("a", JobState.RUNNING, 1, {"x": 1})
        assert rows.claim(session, rows.Run("a", 1, "other"), most_attempts=3, reason="") is None
        assert rows.put(session, "a", "kind", {}) is None
        assert rows.fail(session, run, {"message": "no"})
        assert rows.put(session, "a", "kind", {}) == 2
        again = rows.get(session, "a")
        assert again is not None
        assert (again.state, again.attempts, again.error) == (JobState.QUEUED, 0, None)
        assert rows.claim(session, run, most_attempts=3, reason="") is None  # an older submission
        second = rows.Run("a", 2, "host")
        assert rows.claim(session, second, most_attempts=3, reason="") is not None
        assert rows.succeed(session, second, {"made": "what is gone by now"})
        assert rows.put(session, "a", "kind", {}) == 3
        again = rows.get(session, "a")
        assert again is not None
        assert (again.state, again.attempts, again.result) == (JobState.QUEUED, 0, None)


def test_only_a_running_job_can_end_and_what_has_ended_stays(database: Database) -> None:
    run = rows.Run("a", 1, "host")
    with database.session() as session:
        rows.put(session, "a", "kind", {})
        assert not rows.succeed(session, run, {})
        assert not rows.is_running(session, run)
        rows.claim(session, run, most_attempts=3, reason="")
        assert rows.is_running(session, run)
        assert not rows.succeed(session, rows.Run("a", 1, "other"), {})
        assert rows.succeed(session, run, {"answer": 1})
        assert not rows.cancel(session, "a")
        assert not rows.fail(session, run, {})
        assert not rows.report(session, run, "late news", 0.1)
        assert rows.submit_again(session, "a", 1) is None
        session.expire_all()
        job = rows.get(session, "a")
        assert job is not None
        assert (job.state, job.stage, job.result) == (JobState.SUCCEEDED, "done", {"answer": 1})


def test_a_job_is_put_back_once_however_many_hosts_try(database: Database) -> None:
    with database.session() as session:
        rows.put(session, "a", "kind", {})
        rows.claim(session, rows.Run("a", 1, "host"), most_attempts=3, reason="")
        assert rows.running_at(session, ["host"]) == [("a", 1)]
        assert rows.submit_again(session, "a", 1) == 2
        assert rows.submit_again(session, "a", 1) is None
        session.expire_all()
        job = rows.get(session, "a")
        assert job is not None
        assert (job.state, job.stage, job.attempts) == (JobState.QUEUED, "queued again", 1)
        rows.claim(session, rows.Run("a", 2, "host"), most_attempts=3, reason="")
        assert rows.submit_again(session, "a", 2, uncounted=True) == 3
        session.expire_all()
        job = rows.get(session, "a")
        assert job is not None
        assert (job.state, job.stage, job.attempts) == (JobState.QUEUED, "queued", 1)


def test_two_services_cannot_share_a_data_folder_and_the_second_touches_nothing_in_it(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "data")
    leftovers = [settings.cache_dir / name for name in ("upload-x", "run-y", "subnet-z")]
    kept = settings.cache_dir / ("0" * 64)
    first, second = (DataFolder(settings.data_dir, settings.cache_dir) for _ in range(2))
    first.hold()
    for folder in (*leftovers, kept):
        (folder / "predictor").mkdir(parents=True)
        (folder / "predictor" / "file").write_text("")
    with pytest.raises(RunBusyError, match=r"another service is at work in '.*'; stop it"):
        run(settings)
    assert not (settings.data_dir / "service.sqlite").exists()
    assert all(folder.exists() for folder in leftovers)
    first.release()
    second.hold()
    assert list(settings.cache_dir.iterdir()) == [kept]
    second.release()


def test_a_service_that_cannot_start_lets_go_of_its_folder(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    (tmp_path / "service.sqlite").write_bytes(b"no database " * 1000)
    for _ in range(2):
        with pytest.raises(
            StorageError,
            match=r"^cannot prepare the database '.*service\.sqlite': file is not a database; restore it from a copy",
        ):
            run(settings)
