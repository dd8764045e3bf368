"""The contract with dbos 3.4: what it must have and do, so that a new version is noticed here and not by users."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer

from service.jobs import queue
from service.jobs.engine import new_executor_id
from service.storage.database import Database

_TAKES_JOBS = """
import json, sys, threading, time
from dbos import DBOS
from service.jobs import queue
from service.storage.database import Database

database = Database(sys.argv[1])
DBOS(config=queue.configuration(database, "host-1"))
done = []
lane = queue.SHORT

@DBOS.workflow(name=lane.workflow, max_recovery_attempts=None)
def run_job(job_id, submission):
    done.append([job_id, submission, threading.current_thread() is threading.main_thread()])

DBOS.listen_queues([lane.name])
DBOS.launch()
DBOS.register_queue(lane.name, worker_concurrency=1, polling_interval_sec=lane.poll_s)
client = queue.client(database)
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    flows = client.list_workflows(status="SUCCESS", queue_name=[lane.name], load_input=False, load_output=False)
    if len(flows) == 2:
        break
    time.sleep(0.1)
print(json.dumps(done), flush=True)
import os
os._exit(0)
"""


@pytest.fixture
def database(either_database: Database) -> Database:
    queue.migrate(either_database)
    return either_database


def test_the_version_is_the_one_that_this_was_tried_with() -> None:
    assert version("dbos").startswith("3.4.")


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (
            DBOSClient.__init__,
            ("system_database_engine", "serializer", "application_name", "lazy", "retry_connection_errors"),
        ),
        (DBOSClient.enqueue_in_transaction, ("conn_or_session", "options", "args")),
        (
            DBOSClient.list_workflows,
            (
                *("workflow_ids", "status", "executor_id", "queue_name"),
                *("completed_before", "limit", "load_input", "load_output"),
            ),
        ),
        (DBOSClient.delete_workflows, ("workflow_ids",)),
        (DBOSClient.destroy, ()),
        (DBOS.migrate, ("system_database_url",)),
        (DBOS.workflow, ("name", "max_recovery_attempts")),
        (DBOS.listen_queues, ("queues",)),
        (DBOS.launch, ()),
        (DBOS.register_queue, ("name", "worker_concurrency", "polling_interval_sec")),
        (DBOS.destroy, ()),
    ],
)
def test_the_public_calls_that_are_used_take_what_is_passed(call: Any, names: tuple[str, ...]) -> None:
    assert set(names) <= inspect.signature(call).parameters.keys()


def test_a_host_is_configured_with_an_id_a_version_json_and_the_services_own_engine(database: Database) -> None:
    executors = {new_executor_id("host") for _ in range(100)}
    assert len(executors) == 100
    found = queue.configuration(database, "host-1")
    assert found.keys() <= DBOSConfig.__annotations__.keys()
    assert (found["executor_id"], found["application_version"]) == ("host-1", "1")
    assert isinstance(found["serializer"], DBOSPortableJSONSerializer)  # the default one is pickle
    assert found["system_database_engine"] is database.engine


def test_an_sqlite_engine_writes_ahead_and_waits_for_others(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with database.engine.connect() as connection:
        names = ("journal_mode", "synchronous", "busy_timeout")
        assert [connection.scalar(sa.text(f"pragma {name}")) for name in names] == ["wal", 1, 30000]
    database.close()


def test_jobs_are_queued_with_the_callers_rows_once_and_run_with_their_arguments(database: Database) -> None:
    client = queue.client(database)
    with database.session() as session:
        queue.enqueue(client, session, "make_subnet", "not", 1)
        session.rollback()
    for _ in range(2):  # the second time, it is the same job
        with database.session() as session:
            queue.enqueue(client, session, "make_subnet", "a", 1)
    with database.session() as session:
        queue.enqueue(client, session, "make_subnet", "a", 2)
    waiting = client.list_workflows(workflow_ids=["a:1", "a:2", "not:1"], load_input=False, load_output=False)
    assert {flow.workflow_id: flow.status for flow in waiting} == {"a:1": "ENQUEUED", "a:2": "ENQUEUED"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _TAKES_JOBS, database.url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert sorted(json.loads(ended.stdout)) == [["a", 1, False], ["a", 2, False]]
    schema = "" if database.is_sqlite else "dbos."
    columns = "executor_id, application_version, workflow_input.inputs"
    joined = f"{schema}workflow_status join {schema}workflow_input using (workflow_uuid)"
    with database.session() as session:
        rows = session.execute(sa.text(f"select {columns} from {joined} order by workflow_uuid")).all()
    assert [row[:2] for row in rows] == [("host-1", "1")] * 2
    assert [json.loads(row.inputs)["positionalArgs"] for row in rows] == [["a", 1], ["a", 2]]  # JSON, and no pickle
    assert client.list_workflows(executor_id="another", status="PENDING", queue_name=[queue.SHORT.name]) == []
    later = client.list_workflows(completed_before="2100-01-01T00:00:00+00:00", limit=10)
    client.delete_workflows([flow.workflow_id for flow in later])
    assert client.list_workflows(workflow_ids=["a:1", "a:2"]) == []
    client.destroy()
