"""/metrics: what was counted is what happened, and the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from service import metrics
from service.client import Client
from service.domain import utc_now
from service.metrics import Metrics
from service.storage import jobs
from service.storage.database import Database
from service.storage.jobs import Run

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
Sample = tuple[str, tuple[tuple[str, str], ...]]


@pytest.fixture
def database(either_database: Database) -> Database:
    return either_database


def samples(content: bytes) -> dict[Sample, float]:
    found = {}
    for family in text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(found: Mapping[Sample, float], name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


def test_jobs_are_counted_by_kind_and_state_and_timed_once_when_they_end(database: Database) -> None:
    with database.session() as session:
        jobs.put(session, "before", "make_subnet", {})
        jobs.claim(session, Run("before", 1, "host"), most_attempts=3, reason="")
        jobs.succeed(session, Run("before", 1, "host"), {})
    figures = Metrics(database)  # what ended before is stored, and not timed
    with database.session() as session:
        for name in ("a", "b", "c", "d", "e"):
            jobs.put(session, name, "make_subnet", {})
        for name in ("a", "b", "c"):
            assert jobs.claim(session, Run(name, 1, "host"), most_attempts=3, reason="") is not None
        jobs.succeed(session, Run("a", 1, "host"), {})
        jobs.fail(session, Run("b", 1, "host"), {"kind": "x", "message": "y"})
        jobs.cancel(session, "d")  # never began: no time to tell
    for _ in range(2):  # a second scrape counts nothing twice
        found = samples(figures.text())
        states = {state: value(found, "onceforall_jobs", kind="make_subnet", state=state) for state in
                  ("queued", "running", "succeeded", "failed", "cancelled")}  # fmt: skip
        assert states == {"queued": 1, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 1}
        for state, count in (("succeeded", 1), ("failed", 1), ("cancelled", None)):
            assert value(found, "onceforall_job_seconds_count", kind="make_subnet", state=state) == count
    age = value(found, "onceforall_job_queue_age_seconds")
    assert age is not None
    assert 0 < age < 60
    with database.session() as session:
        jobs.succeed(session, Run("c", 1, "host"), {})
        jobs.cancel(session, "e")
    found = samples(figures.text())
    assert value(found, "onceforall_job_seconds_count", kind="make_subnet", state="succeeded") == 2
    assert value(found, "onceforall_job_queue_age_seconds") == 0


def test_more_jobs_than_one_reading_takes_are_all_timed_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MOST_ENDED", 3)
    figures = Metrics(database)
    for number in range(8):
        run = Run(f"job-{number}", 1, "host")
        with database.session() as session:
            jobs.put(session, run.job_id, "make_subnet", {})
            jobs.claim(session, run, most_attempts=3, reason="")
            jobs.succeed(session, run, {})
        if number % 4 == 3:
            found = samples(figures.text())
            count = value(found, "onceforall_job_seconds_count", kind="make_subnet", state="succeeded")
            assert count == number + 1


def test_a_database_that_refuses_costs_its_figures_and_not_the_scrape(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    figures = Metrics(database)  # no tables
    found = samples(figures.text())
    assert value(found, "onceforall_database_up") == 0
    assert value(found, "onceforall_jobs", kind="make_subnet", state="queued") is None
    assert (value(found, "process_resident_memory_bytes") or 0) > 1e6
    database.migrate()
    assert value(samples(figures.text()), "onceforall_database_up") == 1
    database.close()


def test_what_is_stored_is_what_the_files_say(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=4.25M")
    found = samples(httpx.get(f"{url}/metrics", trust_env=False).content)
    everything = [file for each in client.list_subnets() for file in each["files"]]
    assert len(everything) >= len(subnet["files"]) == 3
    assert value(found, "onceforall_artifact_files", of="subnets") == len(everything)
    assert value(found, "onceforall_artifact_bytes", of="subnets") == sum(file["size_bytes"] for file in everything)
    assert value(found, "onceforall_artifact_files", of="supernets") == 5
    names = [device["name"] for device in client._call("GET", "/devices")["items"]]
    tables = [table for name in names for table in client.list_tables(name)]
    assert len(tables) >= 1
    assert value(found, "onceforall_artifact_bytes", of="latency_tables") == sum(each["size_bytes"] for each in tables)
    assert value(found, "onceforall_job_hosts") == 1
    assert (value(found, "onceforall_job_seconds_count", kind="make_subnet", state="succeeded") or 0) >= 1


def test_requests_are_counted_by_templates_that_a_client_cannot_multiply(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        before = samples(client.get("/metrics").content)
        for number in range(20):
            assert client.get(f"/api/v1/jobs/{number:064x}").status_code == 404
            assert client.get(f"/nowhere/{number}").status_code == 404
            assert client.request(f"ODD{number}", "/healthz").status_code in (400, 405)
            client.get("/api/v1/jobs", headers={"Host": f"host{number}"})
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    after = samples(answer.content)
    grown = {key: after[key] - before.get(key, 0) for key in after if key[0] == "onceforall_http_requests_total"}
    labels = {"route": "/api/v1/jobs/{job}", "method": "GET", "status": "404"}
    assert grown["onceforall_http_requests_total", tuple(sorted(labels.items()))] == 20
    labels |= {"route": "none"}
    assert grown["onceforall_http_requests_total", tuple(sorted(labels.items()))] == 20
    assert len([key for key, more in grown.items() if more]) < 10
    assert not [key for key in after if "ODD" in str(key) or "nowhere" in str(key) or "_created" in key[0]]
    count = value(after, "onceforall_http_request_seconds_count", route="/api/v1/jobs/{job}", method="GET")
    bucket = value(after, "onceforall_http_request_seconds_bucket", route="/api/v1/jobs/{job}", method="GET", le="+Inf")
    assert count == bucket


def test_open_event_streams_are_counted_and_leave_the_latencies_alone(client: Client, url: str) -> None:
    job_id = client.ask("noise", "macs<=4.26M")["id"]
    for event in client.follow(job_id):
        if event["state"] == "running":
            assert value(samples(httpx.get(f"{url}/metrics", trust_env=False).content), "onceforall_event_streams") == 1
            break
    client.cancel(job_id)
    found = samples(httpx.get(f"{url}/metrics", trust_env=False).content)
    assert not [
        key for key in found if key[0].startswith("onceforall_http_request_seconds") and "events" in str(key[1])
    ]


def test_the_dashboard_asks_for_figures_and_labels_that_exist(client: Client, url: str) -> None:
    client.request_subnet("noise", "macs<=4.25M")
    found = samples(httpx.get(f"{url}/metrics", trust_env=False).content)
    known: dict[str, set[str]] = {}
    for name, labels in found:
        known.setdefault(name, {"job", "instance"}).update(label for label, _ in labels)
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) >= 15
    asked = set()
    for expression in expressions:
        selectors = re.findall(r"\b((?:onceforall|process)_[a-z_]+)\{([^}]*)\}", expression)
        assert selectors, expression
        names = {name for name, _ in selectors}
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        for name, inside in selectors:
            assert name in known, f"{expression} asks for {name}, which is not exported"
            used = set(re.findall(r"(\w+)\s*=~?\"", inside))
            assert used <= known[name], f"{expression}: {name} has no {used - known[name]}"
        assert grouped <= set.union(*(known[name] for name in names)), expression
        asked |= names
    own = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known if name.startswith("onceforall_")}
    left_out = own - {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert left_out == set(), f"the dashboard shows none of {left_out}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_count_of_stored_files_of_an_older_schema_is_made_up_for(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from service.storage.database import MIGRATIONS

    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        files = {
            "a": {"name": "a", "sha256": "0" * 64, "size_bytes": 5},
            "b": {"name": "b", "sha256": "1" * 64, "size_bytes": 7},
        }
        row = {"id": "s", "files": json.dumps(files), "created_at": utc_now()}
        columns = ("request_id", "supernet_id", "space", "config_digest")
        connection.execute(
            text(
                f"insert into subnets (id, files, created_at, {', '.join(columns)}, config, card, predicted_accuracy,"
                " accuracy, macs, params) values (:id, :files, :created_at, '', '', '', '', '{}', '{}', 0, 0, 0, 0)"
            ),
            row,
        )
    database.migrate()
    with database.session() as session:
        counted = session.execute(text("select stored_files, stored_bytes from subnets")).one()
    assert tuple(counted) == (2, 12)
    database.close()
