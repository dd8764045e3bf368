"""A zero character, which PostgreSQL holds in no text, and what a client reads of a store that refuses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from obstore.store import S3Store
from servers import new_database
from small_service import make_table, serving, small_settings
from sqlalchemy import text

from service.api import problems
from service.errors import BackendError, BusyError
from service.storage.artifacts import ObjectArtifacts, open_artifacts
from service.storage.database import Database
from supernet.errors import ConfigError


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    changes: dict[str, Any] = {"job_workers": 0}
    if request.param == "postgresql":
        changes["database_url"] = new_database(request.getfixturevalue("postgres_server"))
    with serving(small_settings(tmp_path_factory.mktemp("zero"), **changes)) as url:
        httpx.post(f"{url}/api/v1/devices", json={"name": "bench"}).raise_for_status()
        yield url


BUDGET = [{"metric": "macs", "max": 3_000_000}]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/subnets?supernet=%00", None),
        ("GET", "/api/v1/subnets?cursor=a%00", None),
        ("GET", "/api/v1/subnets/%00", None),
        ("GET", "/api/v1/jobs?cursor=%00", None),
        ("GET", "/api/v1/pareto-fronts?supernet=%00", None),
        ("GET", "/api/v1/pareto-fronts?supernet=noise&device=a%00b", None),
        ("POST", "/api/v1/subnet-requests", {"supernet": "\0", "constraints": BUDGET}),
        ("POST", "/api/v1/devices", {"name": "x", "hardware": "a\0b"}),
        ("POST", "/api/v1/devices", {"name": "a\0"}),
        ("GET", "/subnets/%00", None),
        ("GET", "/subnets?supernet=%00", None),
        ("GET", "/subnets?device=%00", None),
        ("GET", "/subnets/compare?id=%00&id=x", None),
        ("GET", "/tables/compare?a=%00&b=x", None),
        ("GET", "/tables?cursor=%00", None),
        ("GET", "/jobs?state=%00", None),
        ("POST", "/jobs/%00/cancel", None),
    ],
)
def test_a_zero_character_is_a_422_that_names_it(address: str, method: str, path: str, body: Any) -> None:
    answer = httpx.request(method, address + path, json=body)
    assert answer.status_code == 422, answer.text
    faults = answer.json()["faults"]
    if body is None:
        assert faults == [{"where": faults[0]["where"], "message": "it holds a zero character, %00; no name has one"}]
    else:
        assert faults[0]["where"].startswith("body.")


def test_a_zero_character_inside_of_a_table_does_no_harm(address: str) -> None:
    document = json.loads(make_table().render("json"))
    document["provenance"]["runtime"] = "a\0b"
    where = f"{address}/api/v1/devices/bench/latency-tables"
    answer = httpx.post(where, json=document)
    assert answer.status_code in (201, 422), answer.text
    assert httpx.get(where).status_code == 200
    assert httpx.get(f"{address}/tables").status_code == 200


def test_a_value_that_the_database_cannot_hold_is_the_requests_fault(postgres_url: str) -> None:
    database = Database(postgres_url)
    reason = "a value cannot be stored: PostgreSQL text fields cannot contain NUL"
    with pytest.raises(ConfigError, match=reason), database.session() as session:
        session.execute(text("select cast(:value as text)"), {"value": "a\0"})
    database.close()


def test_a_client_is_not_told_where_the_database_is() -> None:
    database = Database("postgresql+psycopg://somebody:hunter2@127.0.0.1:9/x")
    with pytest.raises(BackendError, match=r"somebody.*127\.0\.0\.1") as refused, database.session() as session:
        session.execute(text("select 1"))
    database.close()
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def fail() -> None:
        raise refused.value

    answer = TestClient(app).get("/")
    assert answer.status_code == 507
    assert "the database of the service refused: its operator finds the reason in the log" in answer.json()["detail"]
    for secret in ("somebody", "hunter2", "127.0.0.1"):
        assert secret not in answer.text


def test_a_client_is_not_told_where_the_bucket_is() -> None:
    store = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9",
        access_key_id="somebody",
        secret_access_key="hunter2",
        region="x",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    artifacts = ObjectArtifacts(store)
    for attempt in (
        lambda: artifacts.put_bytes(b"x", name="x"),
        lambda: artifacts.has("0" * 64),
        lambda: list(artifacts.entries()),
        artifacts.check,
    ):
        with pytest.raises(BackendError, match=r"127\.0\.0\.1") as refused:
            attempt()
        assert "the operator finds the reason in the log" in refused.value.told
        for secret in ("somebody", "hunter2", "127.0.0.1", "bucket/"):
            assert secret not in refused.value.told
        copied = pickle.loads(pickle.dumps(refused.value))
        assert (str(copied), copied.told) == (str(refused.value), refused.value.told)


def test_a_client_is_not_told_where_the_folder_is(tmp_path: Path) -> None:
    artifacts = open_artifacts(f"file://{tmp_path / 'secret'}")
    (tmp_path / "secret" / "sha256").write_text("no folder")
    with pytest.raises(BackendError, match="secret") as refused:
        artifacts.put_bytes(b"x", name="x")
    assert refused.value.told == "cannot read the artefact store; try again; the operator finds the reason in the log"


def test_too_many_sessions_at_a_time_are_a_429(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with pytest.raises(BusyError, match="all connections to the database are busy; send the request again") as busy:
        _open(database, 100)
    assert problems.status_of(busy.value) == 429
    database.close()


def _open(database: Database, count: int) -> None:
    with database.session() as session:
        session.execute(text("select 1"))
        if count:
            _open(database, count - 1)
