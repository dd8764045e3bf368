"""Several processes on one PostgreSQL and one bucket: what one API takes in, any host does and any API gives out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from small_service import make_table, small_settings
from test_jobs import service_process, wait_until

from service.client import Client
from service.settings import Settings
from service.storage import jobs as rows
from service.storage import staging, uses
from service.storage.artifacts import ArtifactStore, open_artifacts
from service.storage.database import Database
from supernet.errors import CheckpointError, ConfigError

MOVED_S = 15.0


@contextmanager
def worker_process(folder: Path, **values: object) -> Iterator[subprocess.Popen[str]]:
    """`onceforall worker`, once it takes jobs."""
    command = [sys.executable, "-m", "service.cli", "worker", "--data-dir", str(folder)]
    variables = {f"ONCEFORALL_{name.upper()}": str(value) for name, value in values.items()}
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths} | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("working as ")
            yield process
        finally:
            process.kill()


@pytest.fixture
def shared(postgres_url: str, s3_url: str) -> dict[str, str]:
    return {"database_url": postgres_url, "artifact_url": s3_url}


@pytest.mark.long
def test_a_killed_workers_job_goes_on_at_the_other_worker(
    tmp_path: Path, run_folder: Path, shared: dict[str, str]
) -> None:
    slow = {"search_population": 100, "search_generations": 100_000}
    with ExitStack() as stack:
        apis = [
            stack.enter_context(service_process(tmp_path / f"api{number}", job_workers=0, **shared, **slow))
            for number in range(2)
        ]
        first, second = (stack.enter_context(Client(url)) for _, url in apis)
        first.register_run(run_folder, "noise")
        first.create_device("bench", runtime="formula")
        make_table().save(run_folder / "bench.json")
        second.upload_table("bench", run_folder / "bench.json")
        with ExitStack() as workers:
            doomed = workers.enter_context(worker_process(tmp_path / "a", **shared, **slow))
            job_id = first.ask("noise", "latency_ms@bench<=2")["id"]
            wait_until(second, job_id, stage="searching")
            workers.enter_context(worker_process(tmp_path / "b", **shared, **slow))
            doomed.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            while second.job(job_id)["attempts"] == 1 or second.job(job_id)["stage"] != "searching":
                assert time.monotonic() - killed < 2 * MOVED_S  # twice, because the machine of the tests is busy
                time.sleep(0.05)
        # Both workers have ended; a third does quick searches of its own.
        assert first.cancel(job_id)["state"] == "cancelled"
    quick = {"search_population": 20, "search_generations": 5}
    with (
        service_process(tmp_path / "api2", job_workers=0, **shared, **quick) as (_, url),
        worker_process(tmp_path / "c", **shared, **quick) as worker,
        Client(url) as client,
    ):
        subnet = client.request_subnet("noise", "latency_ms@bench<=2")
        paths = client.download(subnet["id"], tmp_path / "out")  # by digest
        assert len(paths) == 3
        assert json.loads((tmp_path / "out" / "card.json").read_text())["request"] == subnet["request"]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0
    database = Database(Settings(**shared).resolved_database_url)
    artifacts = open_artifacts(shared["artifact_url"])
    with database.session() as session:
        assert set(artifacts.digests()) == staging.in_use(session) == uses.files(session)
        assert rows.count_active(session) == 0
    database.close()


def test_processes_that_start_together_on_an_empty_database_all_start(postgres_url: str) -> None:
    program = (
        "import sys; from service.storage.database import Database; from service.jobs import queue;"
        "d = Database(sys.argv[1]); d.migrate(); queue.migrate(d)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, postgres_url], env=environment, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


def test_what_looks_first_and_then_stores_is_one_at_a_time_on_postgresql(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.migrate()
    order: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(database.session(exclusive=True))

        def late() -> None:
            with database.session(exclusive=True):
                order.append("late")

        thread = Thread(target=late)
        thread.start()
        time.sleep(0.3)
        order.append("early")
    thread.join(timeout=10)
    assert order == ["early", "late"]
    database.close()


def test_files_of_a_killed_process_are_swept_and_those_in_use_stay(either_store: ArtifactStore, tmp_path: Path) -> None:
    artifacts = either_store
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    kept, lost = (artifacts.put_bytes(name.encode(), name=name) for name in ("kept", "lost"))
    staging.note(database, [kept.sha256], process="alive")
    staging.note(database, [kept.sha256, lost.sha256], process="dead")
    assert staging.sweep(database, artifacts, older_than_s=3600) == 0
    assert staging.sweep(database, artifacts, processes=["dead"]) == 1
    assert set(artifacts.digests()) == {kept.sha256}
    assert artifacts.read(kept.sha256) == b"kept"
    assert not artifacts.has(lost.sha256)
    with pytest.raises(CheckpointError, match="is gone from the artefact store"):
        artifacts.read(lost.sha256)
    assert staging.sweep(database, artifacts, older_than_s=0) == 1
    database.close()


def test_a_bucket_takes_files_of_many_parts_and_gives_ranges(s3_url: str, tmp_path: Path) -> None:
    artifacts = open_artifacts(s3_url + "/some/prefix")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(30 << 20))
    stored = artifacts.put_file(path, name="weights")
    assert artifacts.put_file(path, name="again").sha256 == stored.sha256
    artifacts.copy_to(stored.sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert (
        b"".join(artifacts.chunks(stored.sha256, start=5 << 20, end=(5 << 20) + 3)) == path.read_bytes()[5 << 20 :][:3]
    )


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://", "relative/folder", "file://host/folder"])
def test_an_artefact_store_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="allowed: file:///absolute/folder, s3://bucket/prefix"):
        open_artifacts(url)


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: postgresql://user:password@host/name"):
        small_settings(tmp_path, database_url="mysql://x")


def test_a_worker_without_a_shared_database_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "worker", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 2
    assert "a worker needs a database that it can share with the service" in done.stderr
